"""ONNX to OpenVINO IR, the word embeddings set apart.

One compiled model per length would hold the embedding table once each, most of its bytes; so the graph begins behind
the table, and the backend looks the rows up itself, from one memory-mapped file that all lengths and workers share.
Border: writes model.xml, model.bin, embeddings.npy, second.npz where two texts are told apart.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from millis.backends.ir import EMBEDDINGS, FILE
from millis.backends.segments import Second
from millis.compiling.writing import writing


def convert_onnx(file: Path, folder: Path, *, table: NDArray[np.floating], second: Second | None) -> None:
    """Write the IR of an ONNX file of embeddings, in fp32, and beside it the table and what a second text adds to it.

    Raises:
        RunFailed: the ONNX file cannot be read, or the folder cannot be written; the folder is gone then.
    """
    import openvino as ov  # backends.ir, above, keeps it from telling its maker

    with writing(folder):
        folder.mkdir(exist_ok=True)
        model = ov.Core().read_model(file)
        ov.save_model(model, folder / FILE, compress_to_fp16=False)
        np.save(folder / EMBEDDINGS, np.ascontiguousarray(table))
        if second is not None:
            second.write(folder)
