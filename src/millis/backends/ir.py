"""What the files of backend openvino are called, for rooms that write, count or move them without its runtime.

Whoever imports this keeps openvino and nncf, imported later by whomever, from telling their maker that they were.
Border: names; openvino.py reads the files.
"""

import sys

FILE = "model.xml"
EMBEDDINGS = "embeddings.npy"

# Importing openvino imports its model converter, which unasked tells its maker's analytics that it was imported; nncf
# tells more. Both are silent where the client for it cannot be found.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
