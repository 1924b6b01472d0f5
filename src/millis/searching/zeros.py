"""Whether zeros among the weights save time in the runtime that serves: measured, and told.

The int8 network with zeros is timed beside the one without, both as OpenVINO takes them and packed without their zeros
(its sparse weights decompression). No rung is made of it: where zeros pay, the line says so and by how much.
Border: builds, times and scores; the pass is compressing/sparse.py.
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from millis.backends import BackendSettings
from millis.compiling.comparing import loaded
from millis.compiling.onnx import export_embeddings, load_for_export, second_of
from millis.compiling.openvino import convert_onnx
from millis.compressing.quantize import quantize_openvino
from millis.compressing.sparse import zero_weights
from millis.searching.building import CALIBRATION, Reference, build_artifact, score_files, windows_of
from millis.searching.candidates import Variant
from millis.searching.case import Case
from millis.searching.layers import time_in_turns
from millis.searching.trying import artifact_case
from millis.telemetry.progress import say

_PAYS = 0.02
"""Of the time without zeros: less cannot be told from nothing."""


def tell_zeros(case: Case, reference: Reference, *, share: float) -> str:
    """Say what this share of zeros, 0 to 1, does to the time and the quality of the reference in int8.

    Cost: a quantisation, some loads, and a run over dev; nothing when the run folder knows.
    """
    key = f"{share:g}"
    known = case.ledger.find("zeros", key)
    if known is None:
        known = {"line": _measure(case, reference, share=share)}
        case.ledger.add("zeros", key, known)
    line = str(known["line"])
    say(line)
    return line


def _measure(case: Case, reference: Reference, *, share: float) -> str:
    folder, artifact = case.folder / "zeros", artifact_case(case, reference)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sparse = zero_weights(load_for_export(reference.folder), share=share)
    table = export_embeddings(sparse, folder / "embedded.onnx")
    convert_onnx(folder / "embedded.onnx", folder / "fp32", table=table.numpy(), second=second_of(sparse))
    windows = windows_of(artifact, case.splits.train, n=CALIBRATION)
    quantize_openvino(folder / "fp32", folder / "int8", calibration=windows)
    variant = Variant(backend="openvino", precision="int8", is_bucketed=True)
    dense = build_artifact(variant, case=artifact, reference=reference.folder).folder
    plain = BackendSettings(buckets=case.buckets)
    packed = BackendSettings(buckets=case.buckets, packed_from=share / 2)
    with ExitStack() as stack:
        models = [
            stack.enter_context(loaded("openvino", place, settings=settings))
            for place, settings in ((dense, plain), (folder / "int8", plain), (folder / "int8", packed))
        ]
        dense_ms, plain_ms, packed_ms = (
            _mean(row, case.buckets, case.lengths) for row in time_in_turns(models, case.buckets)[0]
        )
    quality = score_files(folder / "int8", variant, case=artifact).value
    shutil.rmtree(folder, ignore_errors=True)
    return word_zeros(
        share, dense_ms=dense_ms, plain_ms=plain_ms, packed_ms=packed_ms,
        quality=f"{reference.dev.name} {quality:.2f} on dev, of {reference.dev.value:.2f}",
    )  # fmt: skip


def _mean(row: Sequence[float], buckets: Sequence[int], lengths: Sequence[int]) -> float:
    place = np.searchsorted(buckets, np.minimum(lengths, buckets[-1]))
    return float(np.array(row)[place].mean())


def word_zeros(share: float, *, dense_ms: float, plain_ms: float, packed_ms: float, quality: str) -> str:
    """Word what was measured, and whether it pays."""
    saved = 1 - min(plain_ms, packed_ms) / dense_ms
    verdict = (
        f"they save {100 * saved:.0f} % here, before any training that would bring quality back: no rung is made of it"
        if saved >= _PAYS
        else "they save nothing that counts on this runtime, so no rung is made of it"
    )
    return (
        f"{100 * share:g} % zeros in the layers' matrices (NNCF, by magnitude): {plain_ms:.3f} ms, {packed_ms:.3f} ms"
        f" packed, {dense_ms:.3f} ms without zeros, OpenVINO int8, mean over the texts of train; {quality}, untrained:"
        f" {verdict}"
    )
