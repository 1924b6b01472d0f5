"""Files are compared with torch, and held to the floor, at the lengths at which they are served."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fitting import make_base, make_sentences
from making import write_conll
from millis.backends import Batch, backends
from millis.backends.openvino import OpenVinoBackend
from millis.contract import Contract
from millis.errors import RunFailed
from millis.searching import building
from millis.searching.building import build_artifact
from millis.searching.candidates import Variant
from millis.searching.case import prepare
from millis.searching.settings import FitSettings
from millis.searching.trying import artifact_case
from millis.searching.unlabelled import learn_reference

pytestmark = pytest.mark.slow


class WrongAtStaticLengths(OpenVinoBackend):
    """OpenVINO as it was seen with a prompt in eight bits: right at any length, wrong at a static one."""

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        logits = super().run(batch)["logits"]
        return {"logits": logits if None in self._compiled else logits[..., ::-1].copy()}


def test_what_is_wrong_at_static_lengths_alone_is_refused_in_floats_and_below_the_floor_in_eight_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, (part, n) in enumerate((("train", 600), ("dev", 20), ("test", 20))):
        write_conll(tmp_path / f"{part}.conll", make_sentences(n, seed=seed))
    files: dict[str, Any] = {part: tmp_path / f"{part}.conll" for part in ("train", "dev", "test")}
    base = make_base(tmp_path / "base")
    settings = FitSettings(base=str(base), out=tmp_path / "names.millis", epochs=4, **files)
    case = prepare(Contract(p99="100 ms", rate=50, max_drop=5), settings, began=time.monotonic())
    reference = learn_reference(base, case=case, settings=settings.training(), folder=case.folder / "training")
    assert reference.dev.value > 20, "there is something to lose"
    artifact = artifact_case(case, reference)
    floats, int8 = (Variant(backend="openvino", precision=one, is_bucketed=True) for one in ("fp32", "int8"))
    assert build_artifact(floats, case=artifact, reference=reference.folder).steps[-1].agreement == 1.0

    monkeypatch.setitem(backends._known, "openvino", f"{__name__}:WrongAtStaticLengths")
    lost: list[float] = []

    def quantize(source: Path, out: Path, *, calibration: Sequence[Any], floor: Any) -> tuple[()]:
        lost.append(floor.loss(source))
        raise RunFailed("seen")

    monkeypatch.setattr(building, "quantize_openvino", quantize)
    with pytest.raises(RunFailed, match="seen"):
        build_artifact(int8, case=artifact, reference=reference.folder)
    assert lost[0] > 5
    shutil.rmtree(case.folder / "artifacts")
    with pytest.raises(RunFailed, match="torch to openvino changed the model"):
        build_artifact(floats, case=artifact, reference=reference.folder)
