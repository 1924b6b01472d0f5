"""Weights and activations to eight bits, and layers back to floats where quality would fall below its floor.

    quantize_openvino   static scales from calibration data (NNCF), for OpenVINO
    quantize_onnx       weights static, activations scaled per call (ONNX Runtime), for processors without VNNI

Border: model folder in, model folder out. `loss` tells how many points a folder loses against fp32; it runs the
compiled model, since what saturates or rounds is the runtime, not the file.
"""

import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millis.backends.openvino import EMBEDDINGS, FILE
from millis.bundles import Choice
from millis.compiling.writing import writing
from millis.telemetry.progress import say

Loss = Callable[[Path], float]


def quantize_openvino(
    source: Path,
    out: Path,
    *,
    calibration: Sequence[NDArray[np.int64]],
    loss: Loss | None = None,
    max_drop: float | None = None,
) -> tuple[Choice, ...]:
    """Quantise an OpenVINO folder to int8 by NNCF; halve the embedding table to fp16.

    Args:
        calibration: windows of token ids, (T,) each.
        loss, max_drop: while loss(out) exceeds max_drop, layers go back to fp32, those behind an activation first.
    Returns:
        what was chosen, and why.
    Raises:
        RunFailed: the library could not write or read its files; a full disk, mostly.
    Source: NNCF post-training quantisation with SmoothQuant and bias correction; Jacob et al. 2018, arXiv:1712.05877.
    """
    import nncf
    import openvino as ov

    logging.getLogger("nncf").setLevel(logging.ERROR)
    table = np.load(source / EMBEDDINGS, mmap_mode="r")
    names = [one.any_name for one in ov.Core().read_model(source / FILE).inputs]

    def batch(ids: NDArray[np.int64]) -> dict[str, Any]:
        mask = np.ones((1, len(ids)), np.int64)
        given = {"inputs_embeds": table[ids][None].astype(np.float32), "attention_mask": mask}
        return {name: given[name] for name in names}

    def quantize(kept: Sequence[str]) -> None:
        model = ov.Core().read_model(source / FILE)
        ignored = nncf.IgnoredScope(names=list(kept)) if kept else None
        with redirect_stdout(sys.stderr):  # its bars
            quantized = nncf.quantize(
                model, nncf.Dataset(list(calibration), batch), model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(calibration), ignored_scope=ignored,
            )  # fmt: skip
        shutil.rmtree(out, ignore_errors=True)
        with writing(out):
            out.mkdir()
            ov.save_model(quantized, out / FILE, compress_to_fp16=False)
            np.save(out / EMBEDDINGS, table.astype(np.float16))

    layers = {
        node.get_friendly_name(): _narrows_in_ir(node) for node in ov.Core().read_model(source / FILE).get_ordered_ops()
        if node.get_type_name() == "MatMul"
    }  # fmt: skip
    return _revert(quantize, layers, out=out, loss=loss, max_drop=max_drop)


def quantize_onnx(
    source: Path,
    out: Path,
    *,
    loss: Loss | None = None,
    max_drop: float | None = None,
) -> tuple[Choice, ...]:
    """Quantise an ONNX folder to int8 with scales of activations taken per call.

    Args:
        loss, max_drop: while loss(out) exceeds max_drop, layers go back to fp32, those behind an activation first.
    Returns:
        what was chosen, and why.
    Raises:
        RunFailed: the library could not write or read its files; a full disk, mostly.
    A scale per output channel: on the demo's tagger (AVX2, 6,432 tokens) 98.8 % of labels agree with fp32 and F1 is
    85.2, with one scale per matrix 97.3 % and 84.4; fp32 has 85.0. Seven-bit weights (reduce_range) gained nothing
    beside it and lost 4.8 points without it. Cost: 1 % of the time.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def quantize(kept: Sequence[str]) -> None:
        shutil.rmtree(out, ignore_errors=True)
        with writing(out):
            out.mkdir()
            quantize_dynamic(
                source / "model.onnx", out / "model.onnx", weight_type=QuantType.QInt8, per_channel=True,
                nodes_to_exclude=list(kept),
            )  # fmt: skip

    graph = onnx.load(source / "model.onnx", load_external_data=False).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    layers = {
        node.name: node.op_type == "MatMul" and _narrows(shapes.get(node.input[1], ())) for node in graph.node
        if node.op_type == "MatMul" or (node.op_type == "Gather" and node.input[0] in shapes)
    }  # fmt: skip
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # its advice to preprocess, on every call
    try:
        return _revert(quantize, layers, out=out, loss=loss, max_drop=max_drop)
    finally:
        root.setLevel(level)


def _narrows(shape: Sequence[int]) -> bool:
    """Say whether weights (in, out) lead from a feed-forward's wide inside back to the model's width."""
    return len(shape) == 2 and shape[0] > shape[1] > shape[0] // 8


def _narrows_in_ir(node: Any) -> bool:
    shape = node.input(1).get_partial_shape()
    if shape.is_dynamic:
        return False
    sizes = tuple(shape.to_shape())
    return _narrows(sizes[::-1] if node.get_attributes()["transpose_b"] else sizes)


def _revert(
    quantize: Callable[[Sequence[str]], None],
    layers: dict[str, bool],
    *,
    out: Path,
    loss: Loss | None,
    max_drop: float | None,
) -> tuple[Choice, ...]:
    """Quantise all, then give layers back to floats until the floor holds, or all are.

    Those that narrow go back first: their inputs, behind the activation, hold the outliers that eight bits lose
    (Bondarenko et al. 2021, arXiv:2109.12948). Then the others from the end, twice as many each time.

    Args:
        layers: whether each narrows, by name, in the order of the model.
    """
    quantize(())
    if loss is None or max_drop is None:
        return ()
    narrowing = [name for name, narrows in layers.items() if narrows]
    order = [*narrowing, *(name for name in reversed(layers) if name not in narrowing)]
    lost = loss(out)
    n_kept, first = 0, lost
    while lost > max_drop and n_kept < len(order):
        n_kept = min(2 * n_kept or len(narrowing) or 1, len(order))
        say(
            f"int8 loses {lost:.2f} points where {max_drop:g} are allowed:"
            f" {n_kept} of {len(order)} layers go back to fp32"
        )
        quantize(order[:n_kept])
        lost = loss(out)
    if not n_kept:
        return ()
    return (
        Choice(
            what="layers kept in fp32",
            choice=f"{n_kept} of {len(order)}, those behind an activation first",
            reason=f"int8 throughout lost {first:.2f} points on dev, {max_drop:g} are allowed; now {lost:.2f}",
        ),
    )
