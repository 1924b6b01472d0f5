"""What the files of backend openvino are called, for rooms that write, count or move them without its runtime.

Border: names; openvino.py reads them.
"""

FILE = "model.xml"
EMBEDDINGS = "embeddings.npy"
