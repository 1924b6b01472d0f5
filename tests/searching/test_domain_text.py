"""Reading on before fine-tuning, as a part of a fit."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fitting import FILLERS, NAMES, make_base, make_sentences
from making import write_conll
from millis.contract import Contract
from millis.errors import InvalidValue
from millis.searching.case import prepare
from millis.searching.settings import FitSettings
from millis.searching.unlabelled import learn_reference

pytestmark = pytest.mark.slow


@pytest.fixture
def asked(tmp_path: Path) -> FitSettings:
    for seed, (part, n) in enumerate((("train", 60), ("dev", 20), ("test", 20))):
        write_conll(tmp_path / f"{part}.conll", make_sentences(n, seed=seed))
    files = {part: tmp_path / f"{part}.conll" for part in ("train", "dev", "test")}
    base = make_base(tmp_path / "base")
    return FitSettings(base=str(base), out=tmp_path / "names.millis", epochs=1, domain_text=tmp_path / "texts.txt", **files)


def learn_from(text: str, settings: FitSettings) -> Path:
    """Learn with these texts of a domain; give the run folder."""
    assert settings.domain_text is not None
    settings.domain_text.write_text(text)
    case = prepare(Contract(p99="100 ms", rate=50), settings, began=time.monotonic())
    learn_reference(Path(settings.base), case=case, settings=settings.training(), folder=case.folder / "training")
    return case.folder


def test_texts_that_cannot_be_read_on_are_refused_before_anything_is_trained(asked: FitSettings, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="none of 2 texts has 3 pieces or more"):
        learn_from("maria\nlisbon", asked)
    assert not (tmp_path / "names.run" / "training").exists()


def test_texts_may_come_through_a_pipe(asked: FitSettings, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "texts.txt")
    words = "\n".join(" ".join(FILLERS[i : i + 5]) for i in range(len(FILLERS) - 4))
    feeding = threading.Thread(target=(tmp_path / "texts.txt").write_text, args=(words,), daemon=True)
    feeding.start()
    case = prepare(Contract(p99="100 ms", rate=50), asked, began=time.monotonic())
    feeding.join()
    learn_reference(Path(asked.base), case=case, settings=asked.training(), folder=case.folder / "training")
    assert list(case.folder.glob("domain/*/base/model.safetensors"))


def test_other_texts_are_read_in_the_same_run_folder(asked: FitSettings) -> None:
    def learn(words: list[str], settings: FitSettings = asked) -> set[Path]:
        folder = learn_from("\n".join(" ".join(words[i : i + 5]) for i in range(len(words) - 4)), settings)
        return set(folder.glob("domain/*/base/model.safetensors"))

    first = learn(FILLERS)
    assert len(first) == 1
    assert learn(FILLERS, replace(asked, rungs=1)) == first, "the same texts are not read again"
    again = learn([name for names in NAMES.values() for name in names])
    assert first < again
    assert len({file.read_bytes() for file in again}) == 2
