"""A trick of the engine stays where it saves time by more than noise and changes no answer; the numbers are kept."""

import json
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec
import pytest
from typer.testing import CliRunner

from making import forge
from millis.backends.generator import Lookup
from millis.bundles import open_bundle
from millis.cli.app import app
from millis.compressing.tricks import Answer, bound_median, judge_trick
from millis.cores import cpu_flags
from millis.serving.generating import load_talker
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import make_speaker


def _pair(first: float, token: float, *, ids: tuple[int, ...] = (1, 2)) -> tuple[Answer, Answer]:
    """Without and with a trick that takes so many times as long."""
    return (
        Answer(ids=(1, 2), first_ms=100, token_ms=10), Answer(ids=ids, first_ms=100 * first, token_ms=10 * token)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pairs", "is_kept", "says"),
    [
        ([_pair(1.0, 0.8)] * 8, True, "faster in the later pieces: first piece 1.00 times"),
        ([_pair(0.5, 1.0)] * 8, True, "faster in the first piece and the whole answers: first piece 0.50 times as long (0.50 to 0.50)"),
        ([_pair(0.9, 1.0), _pair(1.1, 1.0)] * 4, False, "no faster than noise: first piece"),
        ([_pair(0.99, 0.99)] * 8, False, "no faster than noise: first piece"),
        ([_pair(0.5, 1.2)] * 8, False, "slower in the later pieces: first piece 0.50"),
        ([_pair(0.8, 1.05)] * 8, True, "faster in the first piece and the whole answers: first piece 0.80 times"),
        ([_pair(1.05, 0.8)] * 8, False, "slower in the first piece and the whole answers: first piece 1.05"),
        ([_pair(1.0, 0.5)] * 7 + [_pair(1.0, 0.5, ids=(1, 3))], False, "it changes 1 of 8 answers: first piece 1.00"),
        ([_pair(1.0, 0.5)] * 7 + [(_pair(1.0, 0.5)[0], None)], False, "the engine failed on 1 of 8 prompts"),
    ],
)  # fmt: skip
def test_what_saves_by_more_than_noise_and_changes_nothing_is_kept(
    pairs: Sequence[tuple[Answer, Answer | None]], is_kept: bool, says: str
) -> None:
    trial = judge_trick("lookup of 5", pairs, against="2 threads")
    assert trial.is_kept == is_kept
    assert trial.reason.startswith(says)


def test_a_faster_trick_that_changes_answers_is_kept_where_they_may_change() -> None:
    pairs = [_pair(1.0, 0.5, ids=(1, 3))] * 8
    trial = judge_trick("lookup of 5", pairs, against="2 threads", may_change=True)
    assert trial.is_kept
    assert trial.reason.startswith("faster in the later pieces and the whole answers: first piece 1.00")
    assert trial.reason.endswith("; 8 of 8 answers change, as they may")
    same = judge_trick("float32", [_pair(1.0, 1.0, ids=(1, 3))] * 8, against="2 threads", may_change=True)
    assert not same.is_kept
    assert same.reason.startswith("no faster than noise: first piece 1.00"), "float32 is nearer to the model"


def test_a_median_is_bounded_by_what_stands_around_it() -> None:
    assert (bound_median([3, 1, 2, 6, 5, 4]).low, bound_median([3, 1, 2, 6, 5, 4]).high) == (1, 6)
    sixteen = bound_median(list(range(1, 17)))
    assert (sixteen.low, sixteen.median, sixteen.high) == (4, 8.5, 13)  # Conover's table for n = 16


@pytest.mark.slow
def test_tricks_are_tried_on_the_prompts_and_the_server_runs_with_what_is_left(tmp_path: Path) -> None:
    base = make_speaker(tmp_path / "tiny")
    (tmp_path / "prompts.txt").write_text("\n".join(f"tide {i} and tide {i + 1} and tide" for i in range(8)))
    asked = ["pack", str(base), "-o", str(tmp_path / "tiny.millis"), "--rungs", "fp32", "--threads", "1"]
    done = CliRunner().invoke(app, [*asked, "--prompts", str(tmp_path / "prompts.txt"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)["tricks"]
    rung = open_bundle(tmp_path / "tiny.millis").rung()
    names = [one["trick"] for one in told]
    assert names == [one.trick for one in rung.tricks]
    assert {"no prefixes kept", "lookup of 5", "lookup of 2"} <= set(names)
    assert ("float32" in names) == any("bf16" in one for one in cpu_flags()), "elsewhere nothing is rounded to bf16"
    assert all(one["n_prompts"] == 8 and one["first_ms"]["median"] > 0 and one["reason"] for one in told)
    kept = [one["trick"] for one in told if one["is_kept"]]
    assert (rung.lookup is not None) == any("lookup" in one for one in kept)
    assert rung.keeps_prefixes == ("no prefixes kept" not in kept)
    assert rung.keeps_float32 == ("float32" in kept)
    assert rung.threads == (2 if "2 threads" in kept else 1)
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "tiny.millis")]).output
    assert all(f"kept  {name}: " in shown for name in names)
    with Supervisor(ServeSettings(bundles=(str(tmp_path / "tiny.millis"),), port=0)) as server:
        models = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert models[0]["engine"] == {
        "name": "genai", "device": "cpu", "threads": rung.threads, "keeps_prefixes": rung.keeps_prefixes,
        "lookup": None if rung.lookup is None else {"guesses": rung.lookup.guesses, "ngram": rung.lookup.ngram},
        "keeps_float32": rung.keeps_float32,
    }  # fmt: skip
    changed = msgspec.structs.replace(rung, lookup=Lookup(guesses=3, ngram=2), keeps_prefixes=False, keeps_float32=True)
    forge(open_bundle(tmp_path / "tiny.millis"), rungs=[msgspec.to_builtins(changed)])
    talker = load_talker(open_bundle(tmp_path / "tiny.millis"))
    talker.close()
    built = talker._generator._load.settings  # type: ignore[attr-defined]
    assert (built.lookup, built.keeps_prefixes, built.keeps_float32) == (changed.lookup, False, True)
    alone = CliRunner().invoke(app, [*asked, "--answers-may-change"])
    assert "--answers-may-change came alone" in f"{alone.output}{alone.exception}"
    (tmp_path / "few.txt").write_text("one\ntwo")
    refused = CliRunner().invoke(app, [*asked, "--prompts", str(tmp_path / "few.txt")])
    assert "give 6 or more" in f"{refused.output}{refused.exception}"
