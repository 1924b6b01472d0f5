"""The unit on disk, NAME.millis: manifest, tokenizer, rungs, certificate, report; and a rung loaded from it.

Border: reads and writes files, runs a loaded rung; no HTTP, no making of models.
"""

from millis.bundles.bundle import Bundle, open_bundle
from millis.bundles.manifest import Certificate, Choice, LatencyRow, Manifest, Rung, ServingShape
from millis.bundles.model import Model, load, load_ladder
from millis.bundles.saving import save_bundle

__all__ = [
    "Bundle", "Certificate", "Choice", "LatencyRow", "Manifest", "Model", "Rung", "ServingShape",
    "load", "load_ladder", "open_bundle", "save_bundle",
]  # fmt: skip
