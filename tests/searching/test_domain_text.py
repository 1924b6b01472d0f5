"""Reading on before fine-tuning, as a part of a fit."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from fitting import FILLERS, NAMES, make_base, make_sentences
from making import write_conll
from millis.contract import Contract
from millis.searching.case import prepare
from millis.searching.settings import FitSettings
from millis.searching.unlabelled import learn_reference

pytestmark = pytest.mark.slow


def test_other_texts_are_read_in_the_same_run_folder(tmp_path: Path) -> None:
    for seed, (part, n) in enumerate((("train", 60), ("dev", 20), ("test", 20))):
        write_conll(tmp_path / f"{part}.conll", make_sentences(n, seed=seed))
    files = {part: tmp_path / f"{part}.conll" for part in ("train", "dev", "test")}
    base, texts = make_base(tmp_path / "base"), tmp_path / "texts.txt"
    asked = FitSettings(base=str(base), out=tmp_path / "names.millis", epochs=1, domain_text=texts, **files)

    def learn(words: list[str], settings: FitSettings = asked) -> set[Path]:
        texts.write_text("\n".join(" ".join(words[i : i + 5]) for i in range(len(words) - 4)))
        case = prepare(Contract(p99="100 ms", rate=50), settings, began=time.monotonic())
        learn_reference(base, case=case, settings=settings.training(), folder=case.folder / "training")
        return set(case.folder.glob("domain/*/base/model.safetensors"))

    first = learn(FILLERS)
    assert len(first) == 1
    assert learn(FILLERS, replace(asked, rungs=1)) == first, "the same texts are not read again"
    again = learn([name for names in NAMES.values() for name in names])
    assert first < again
    assert len({file.read_bytes() for file in again}) == 2
