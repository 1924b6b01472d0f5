"""Weights and activations to eight bits, and layers back to floats while quality is below its floor.

    quantize_openvino   static scales from calibration data (NNCF), for OpenVINO
    quantize_onnx       weights static, activations scaled per call (ONNX Runtime), for processors without VNNI

Border: model folder in, model folder out. A floor tells how many points a folder loses against fp32; it runs the
compiled model, since what saturates or rounds is the runtime, not the file. Which layers go back first is measured in
sensitivity.py.
"""

import logging
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millis.backends.ir import EMBEDDINGS, FILE
from millis.backends.segments import read_second
from millis.bundles import Choice
from millis.compiling.writing import writing
from millis.compressing.sensitivity import Ease, Harm, rank_layers
from millis.telemetry.progress import say

_NAMED = 3
"""How many of the layers that went back a bundle names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """How much eight bits may lose.

    Args:
        loss: points that a folder loses against the model in floats.
        max_drop: points that may be lost.
        windows: token ids (T,) of the training data, on which layers are compared.
    """

    loss: Callable[[Path], float]
    max_drop: float
    windows: Sequence[NDArray[np.int64]]


def quantize_openvino(
    source: Path, out: Path, *, calibration: Sequence[NDArray[np.int64]], floor: Floor | None = None
) -> tuple[Choice, ...]:
    """Quantise an OpenVINO folder to int8 by NNCF; halve the embedding table to fp16.

    Args:
        calibration: windows of token ids, (T,) each.
        floor: while it is not reached, layers go back to fp32, those first that harm most for the time they save.
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
    second = read_second(source)
    names = [one.any_name for one in ov.Core().read_model(source / FILE).inputs]

    def batch(ids: NDArray[np.int64]) -> dict[str, Any]:
        mask = np.ones((1, len(ids)), np.int64)
        embedded = table[ids][None].astype(np.float32)
        if second is not None:
            second.add(embedded, ids[None])
        given = {"inputs_embeds": embedded, "attention_mask": mask}
        return {name: given[name] for name in names}

    def make(kept: Sequence[str] = (), *, is_folded: bool = True) -> Any:
        model = ov.Core().read_model(source / FILE)
        ignored = nncf.IgnoredScope(names=list(kept)) if kept else None
        how = nncf.AdvancedQuantizationParameters(backend_params={"compress_weights": is_folded})
        with redirect_stdout(sys.stderr):  # its bars
            return nncf.quantize(
                model, nncf.Dataset(list(calibration), batch), model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(calibration), ignored_scope=ignored, advanced_parameters=how,
            )  # fmt: skip

    def quantize(kept: Sequence[str]) -> None:
        quantized = make(kept)
        shutil.rmtree(out, ignore_errors=True)
        with writing(out):
            out.mkdir()
            ov.save_model(quantized, out / FILE, compress_to_fp16=False)
            np.save(out / EMBEDDINGS, table.astype(np.float16))
            if second is not None:
                second.write(out)

    def rank(windows: Sequence[NDArray[np.int64]]) -> list[Harm]:
        layers, ease = _ease_openvino(make(is_folded=False))
        return rank_layers(layers, ease, backend="openvino", source=source, int8=out, windows=windows)

    return _revert(quantize, rank, out=out, floor=floor)


def _ease_openvino(model: Any) -> tuple[list[str], Ease]:
    """List the multiplications that NNCF gave eight bits, and give what writes the model without those of some.

    Args:
        model: its weights still floats behind their quantisers.
    """
    import openvino as ov

    layers = {}
    for node in model.get_ordered_ops():
        found = [_find_quantizer(value) for value in node.inputs()] if node.get_type_name() == "MatMul" else []
        if all(found) and found:
            layers[node.get_friendly_name()] = found

    def ease(kept: Collection[str], folder: Path) -> None:
        places = [(value, value.get_source_output()) for name in kept for value in layers[name]]
        for value, quantized in places:
            value.replace_source_output(quantized.get_node().input_value(0))
        try:
            with writing(folder / FILE):
                ov.save_model(model, folder / FILE, compress_to_fp16=False)
        finally:
            for value, quantized in places:
                value.replace_source_output(quantized)

    return list(layers), ease


def _find_quantizer(value: Any) -> Any:
    """Give the input, of a node or of what only reorders for it, that a quantiser feeds; None without one."""
    while (kind := value.get_source_output().get_node().get_type_name()) in ("Reshape", "Transpose"):
        value = value.get_source_output().get_node().input(0)
    return value if kind == "FakeQuantize" else None


def quantize_onnx(source: Path, out: Path, *, floor: Floor | None = None) -> tuple[Choice, ...]:
    """Quantise an ONNX folder to int8 with scales of activations taken per call.

    Args:
        floor: while it is not reached, layers go back to fp32, those first that harm most for the time they save.
    Returns:
        what was chosen, and why.
    Raises:
        RunFailed: the library could not write or read its files; a full disk, mostly.
    A scale per output channel: on the demo's tagger (AVX2, 6,432 tokens) 98.8 % of labels agree with fp32 and F1 is
    85.2, with one scale per matrix 97.3 % and 84.4; fp32 has 85.0. Seven-bit weights (reduce_range) gained nothing
    beside it and lost 4.8 points without it. Cost: 1 % of the time.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def quantize(kept: Sequence[str]) -> None:
        shutil.rmtree(out, ignore_errors=True)
        with writing(out):
            out.mkdir()
            quantize_dynamic(
                source / "model.onnx", out / "model.onnx", weight_type=QuantType.QInt8, per_channel=True,
                nodes_to_exclude=list(kept),
            )  # fmt: skip

    def rank(windows: Sequence[NDArray[np.int64]]) -> list[Harm]:
        layers, ease = _ease_onnx(source / "model.onnx", out / "model.onnx")
        return rank_layers(layers, ease, backend="onnxruntime", source=source, int8=out, windows=windows)

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # its advice to preprocess, on every call
    try:
        return _revert(quantize, rank, out=out, floor=floor)
    finally:
        root.setLevel(level)


def _ease_onnx(source: Path, int8: Path) -> tuple[list[str], Ease]:
    """List the nodes that were given eight bits, and give what writes the int8 model with some as they were."""
    import onnx

    plain, model = onnx.load(source), onnx.load(int8)
    weights = {one.name: one for one in plain.graph.initializer}
    untouched = {(node.name, *node.input) for node in model.graph.node}
    places = {name: place for place, node in enumerate(model.graph.node) for name in node.output}
    layers = {
        node.name: node for node in plain.graph.node
        if node.op_type in ("MatMul", "Gather") and (node.name, *node.input) not in untouched
    }  # fmt: skip

    def ease(kept: Collection[str], folder: Path) -> None:
        made = onnx.ModelProto()
        made.CopyFrom(model)
        there = {one.name for one in made.graph.initializer}
        for node in (layers[name] for name in kept):
            last = made.graph.node[places[node.output[0]]]  # of those in its place; what leads to it is left unused
            name = last.name
            last.CopyFrom(node)
            last.name = name  # the node's own may be taken
            missing = {one for one in node.input if one in weights} - there
            made.graph.initializer.extend(weights[one] for one in missing)
            there |= missing
        with writing(folder / "model.onnx"):
            onnx.save(made, folder / "model.onnx")

    return list(layers), ease


def _revert(
    quantize: Callable[[Sequence[str]], None],
    rank: Callable[[Sequence[NDArray[np.int64]]], list[Harm]],
    *,
    out: Path,
    floor: Floor | None,
) -> tuple[Choice, ...]:
    """Quantise all, then give layers back to floats in their order until the floor holds, or all are.

    Twice as many each time, then halfway between too few and enough: some ten tries for fifty layers.
    """
    quantize(())
    if floor is None:
        return ()
    first = floor.loss(out)
    if first <= floor.max_drop:
        return ()
    say(f"int8 loses {first:.2f} points where {floor.max_drop:g} are allowed: layers go back to fp32")
    order = rank(floor.windows)
    if not order:
        return ()
    tried = {0: first}

    def try_with(n_kept: int) -> bool:
        quantize([one.name for one in order[:n_kept]])
        tried[n_kept] = floor.loss(out)
        say(f"{n_kept} of {len(order)} layers in fp32: int8 loses {tried[n_kept]:.2f} points")
        return tried[n_kept] <= floor.max_drop

    enough = last = 1
    while not try_with(enough) and enough < len(order):
        enough = last = min(2 * enough, len(order))
    too_few = max(n for n in tried if n < enough)
    while tried[enough] <= floor.max_drop and enough - too_few > 1:
        last = (too_few + enough) // 2
        enough, too_few = (last, too_few) if try_with(last) else (enough, last)
    if last != enough:
        quantize([one.name for one in order[:enough]])
    kept = order[:enough]
    named = "; ".join(f"{one.short} {100 * one.error:.0f} % for {one.ms:.2f} ms" for one in kept[:_NAMED])
    return (
        Choice(
            what="layers kept in fp32",
            choice=f"{enough} of {len(order)}, those that harm most for the time they save",
            reason=f"int8 throughout lost {first:.2f} points on dev, {floor.max_drop:g} are allowed; now"
            f" {tried[enough]:.2f}. Of the error that layers make one by one: {named}"
            + ("; ..." if enough > _NAMED else ""),
        ),
    )
