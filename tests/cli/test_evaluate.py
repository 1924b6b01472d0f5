"""`millis evaluate` as a user meets it: the file that was fitted is the file that is scored."""

import json
from pathlib import Path

import pytest

import millis
from fitting import run_millis
from making import forge, forge_file, make_fake_bundle, write_conll
from millis import load, open_bundle
from millis.backends.fake import FILE, write_fake
from millis.errors import InvalidValue


def test_several_labels_are_parted_as_fit_parts_them(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, task="classify")
    write_fake(bundle.path / "rungs" / "fake", labels=6, rows=3, delay_ms=0)
    forge_file(bundle, f"rungs/fake/{FILE}")
    forge(open_bundle(bundle.path), task_settings={**bundle.manifest.task_settings, "is_multi": True})
    texts = ["maria wrote", "上海的订单 order", "hello world from lisbon"]
    labels = [load(bundle.path)(text)["labels"] for text in texts]
    assert max(map(len, labels)) > 1
    file = tmp_path / "test.csv"
    file.write_text("".join(f'{text},"{",".join(one)}"\n' for text, one in zip(texts, labels, strict=True)), encoding="utf-8")
    done = run_millis("evaluate", bundle.path, "--test", file, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["value"] == millis.evaluate(bundle.path, file).value == 100
    with pytest.raises(InvalidValue, match="evaluate has no setting 'layuot': it has layout"):
        millis.evaluate(bundle.path, file, layuot="columns")
    with pytest.raises(InvalidValue, match="no examples to score"):
        millis.evaluate(bundle.path, [])
    assert "calibration error" in run_millis("evaluate", bundle.path, "--test", file).stdout


def test_labels_that_the_model_does_not_have_are_told_with_their_count(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    file = write_conll(tmp_path / "test.conll", [[("maria", "B-PER"), ("wrote", "O")], [("lisbon", "B-PLACE")]] * 2)
    done = run_millis("evaluate", bundle.path, "--test", file, "--json")
    assert done.returncode == 0, done.stderr
    assert "labels came that fake does not have, and count as missed: 'PLACE' (2); it has ORG, PER" in done.stderr
    known = write_conll(tmp_path / "known.conll", [[("maria", "B-PER"), ("wrote", "O")]])
    assert "does not have" not in run_millis("evaluate", bundle.path, "--test", known).stderr
