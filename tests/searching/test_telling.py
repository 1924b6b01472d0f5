"""A tiny model that speaks is taught through the real command line, and its answers are served."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from fitting import run_millis
from millis.bundles import open_bundle
from millis.data.dialogues import read_dialogues
from millis.errors import InvalidData, InvalidValue
from millis.searching.telling import TellSettings
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.tasks.wording import score_rewritten
from millis.training.settings import TrainSettings
from speaking import make_speaker

WORDS = ("tide", "harbour", "boat", "rope", "sail", "quay", "gull", "net")


@pytest.mark.slow
def test_a_model_is_taught_to_translate_with_a_smaller_rung_and_answers_better_than_its_base(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"{one} {other}\t好\tnobody\n" for one in WORDS for other in WORDS if one != other), "utf-8")
    few, out = tmp_path / "few.tsv", tmp_path / "zh.millis"
    few.write_text("".join(pairs.read_text("utf-8").splitlines(keepends=True)[::7]), "utf-8")
    flags = ("--task", "translate", "--base", make_speaker(tmp_path / "base", n_layers=4), "--train", pairs, "--dev", pairs, "--test", few, "-o", out)
    ladder = ("--rungs", "2", "--max-drop", "0", "--per-token", "900 ms")
    done = run_millis("fit", *flags, *ladder, "--instruction", "{text}", "--epochs", "12", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    quality = json.loads(done.stdout)["quality"]
    assert quality["name"] == "chrF"
    assert quality["value"] > 90 > quality["base"]
    manifest = open_bundle(out).manifest
    whole, smaller = manifest.rungs
    assert (whole.name, smaller.name[5:]) == ("int8", "2of4")
    assert [json.loads((out / one.folder / "config.json").read_text())["num_hidden_layers"] for one in manifest.rungs] == [4, 2]
    assert quality["rung"] == manifest.rung in (whole.name, smaller.name)
    assert whole.quality["drop"] == 0
    assert smaller.quality["reference"] == whole.quality["value"] == quality["whole"]
    assert all(row.p50_ms > 0 for one in manifest.rungs for row in one.latency)
    assert [one.latency[0].tokens for one in manifest.rungs] == [1, 1]
    with Supervisor(ServeSettings(bundles=(str(out),), port=0)) as server:
        answer = httpx.post(f"{server.url}/v1/translate", json={"input": "boat sail"}, timeout=20).json()
    assert answer["results"] == [{"text": "好", "finish_reason": "stop"}]
    seen = run_millis("inspect", out)
    assert seen.returncode == 0, seen.stderr
    assert "the base's: chrF" in seen.stdout
    assert "kept  lookup of 5: " in seen.stdout
    assert "layers: 2 of 4" in seen.stdout
    proven = run_millis("prove", out, "--requests", "20", "--rate", "20/s")
    assert proven.returncode in (0, 3, 4), proven.stderr
    assert re.search(r"a token reads \d+\.\d MB of weights, at \d+\.\d GB/s of memory .* ms at least: p50 is \d+\.\d times", proven.stdout)
    ceiling = open_bundle(out).certificate.measurement["ceiling"]  # type: ignore[union-attr]
    assert ceiling["weights_bytes"] == sum(file.stat().st_size for file in (out / open_bundle(out).rung().folder).glob("*.bin"))
    assert ceiling["least_ms"] == pytest.approx(ceiling["weights_bytes"] / ceiling["bandwidth_gb_per_s"] / 1e6, rel=1e-2)
    told = run_millis("evaluate", out, "--test", pairs, "--rung", whole.name, "--json")
    assert json.loads(told.stdout)["value"] > 90, told.stderr
    unknown = run_millis("evaluate", out, "--test", pairs, "--rung", "fp32")
    assert f"has no rung 'fp32': choose one of int8, {smaller.name}" in unknown.stderr
    refused = run_millis("fit", *flags, "--max-drop", "2", "--pooling", "cls", "--teacher", "x")
    assert refused.returncode == 2
    assert "--max-drop, --pooling, --teacher came, which means nothing for translate" in refused.stderr
    deep = run_millis("fit", *flags, "--rungs", "5")
    assert deep.returncode == 2
    assert "5 rungs cannot be made of 4 layers" in deep.stderr


def test_dialogues_are_read_from_lines_and_tables(tmp_path: Path) -> None:
    def read(content: str, *, name: str = "a.tsv", is_chat: bool = False) -> list[tuple[Any, tuple[str, ...]]]:
        (tmp_path / name).write_text(content, "utf-8-sig")
        return [(one.text, one.answers) for one in read_dialogues(tmp_path / name, is_chat=is_chat)]

    assert read("Hi.\t嗨。\tCC\nRun.\t跑。\n") == [("Hi.", ("嗨。",)), ("Run.", ("跑。",))]
    assert read("id\ttarget\tsource\r\n1\tb\ta\r\n") == [("a", ("b",))]
    assert read('source,target\n"a, b",c\n', name="a.csv") == [("a, b", ("c",))]
    assert read('source,target\nx,"first\nb, second"\n', name="b.csv") == [("x", ("first\nb, second",))]
    assert read("\nsource\ttarget\na\tb\n") == [("a", ("b",))]
    assert read("{name}\t名字\n") == [("{name}", ("名字",))]
    assert read('{"source": ["A b.", "C."], "target": ["x", "y"], "id": 3}\n') == [("A b. C.", ("x", "y"))]
    turns = [{"role": "system", "content": "short"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (asked, answers), = read(json.dumps({"messages": turns}), is_chat=True)
    assert ([(turn.role, turn.content) for turn in asked], answers) == ([("system", "short"), ("user", "q")], ("a",))


@pytest.mark.parametrize(
    ("content", "is_chat", "says"),
    [
        ("a\tb\nc\n\td\n", False, r"(?s)a.tsv:2: 1 column.*a.tsv:3: the source is empty"),
        ('{"source": "a"}\n{"target": "b"}\n{"source": 1, "target": "b"}\n[]\n', False, r"(?s):1: no target.*:2: no source.*:3: no source.*:4: "),
        ('{"messages": []}\n{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}\n', True, r"(?s):1: no dialogue.*:2: the last message"),
        ('{"messages": [{"role": "tool", "content": "a"}, {"role": "assistant", "content": "b"}]}\n', True, r"messages\[0\] needs a role"),
        ("\n\n", False, "no examples"),
        ('a,"b\nc,d\n', False, "a.tsv:1: .*a quote that opens a cell must close it"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_read(content: str, is_chat: bool, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(content, "utf-8")
    with pytest.raises(InvalidData, match=says):
        read_dialogues(tmp_path / "a.tsv", is_chat=is_chat)


def test_texts_are_scored_by_the_nearest_that_is_right() -> None:
    score = score_rewritten("summarise", ["the tide is out", "潮水退了"], [("x", "The tide is out."), ("潮水已退",)])
    assert (score.name, round(score.value, 1)) == ("ROUGE-L", 87.5)
    assert "exact 0.00" in score.report
    chinese = score_rewritten("translate", ["你好", "再见"], [("你好",), ("再见", "回头见")])
    assert (chinese.name, chinese.value) == ("chrF", 100.0)
    assert "exact 100.00" in chinese.report


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"training": TrainSettings(adapt="prefix")}, "choose one of full, lora, adalora"),
        ({"out": Path("there")}, "exists and is not a bundle"),
        ({"out": Path("there/file/deep/x.millis")}, "cannot stand below .*file, which is a file"),
        ({"rungs": 0}, "a ladder has 1 or more"),
        ({"task": "sing"}, "choose one of chat, translate, summarise"),
        ({"task": "chat", "instruction": "{text}"}, "leave it out"),
        ({"instruction": "no place"}, "0 places"),
    ],
)
def test_what_cannot_be_taught_is_told_before_anything_is_read(changed: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    Path("there/file").write_text("x")
    with pytest.raises(InvalidValue, match=says):
        TellSettings(**{"base": "nothing", "out": Path("x.millis"), "train": Path("nothing"), "task": "translate", **changed})
