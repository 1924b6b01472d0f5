"""Streams under load: when each piece came, and what a contract on first and later tokens says of it."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from making import forge
from millis.backends.fake_generator import FakeGenerator
from millis.bundles import open_bundle, save_bundle
from millis.cli.app import app
from millis.compressing.tricks import Answer, judge_trick
from millis.contract import Contract
from millis.errors import InvalidValue, RunFailed
from millis.measuring.bandwidth import Ceiling
from millis.measuring.bench import offer_load
from millis.measuring.streaming import Listener
from millis.searching import prove
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from speaking import END, make_echo_bundle

pytestmark = pytest.mark.slow


def _event(document: Any) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def _chunk(text: str) -> bytes:
    return _event({"choices": [{"index": 0, "delta": {"content": text}}]})


DONE = b"data: [DONE]\n\n"
ROLE = _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})


def test_first_piece_is_the_first_with_text_however_bytes_are_cut() -> None:
    listener = Listener()
    body = ROLE + _chunk("潮") + _chunk("水") + _event({"choices": [], "usage": {"completion_tokens": 7}})
    for at, byte in enumerate(body + b"data: [DONE]\n\n"):
        listener.hear(bytes([byte]), now_ns=at)
    spoken = listener.end(due_ns=-10)
    assert spoken is not None
    assert not listener.is_broken
    first = len(ROLE) + len(_chunk("潮")) - 2
    assert (spoken.first_ns, spoken.later_ns) == (first + 10, len(_chunk("水")))
    assert spoken.n_tokens == 7
    assert spoken.gaps_ns == [spoken.later_ns]


@pytest.mark.parametrize("bad", [_event({"error": {"message": "x"}}), b"data: {no\n", b"data: \xff\n"])
def test_error_in_a_stream_breaks_it(bad: bytes) -> None:
    listener = Listener()
    listener.hear(_chunk("a") + bad, now_ns=5)
    assert listener.is_broken


def test_stream_without_a_text_says_nothing() -> None:
    listener = Listener()
    listener.hear(ROLE + b": comment\n\ndata: [DONE]\n\n", now_ns=5)
    assert listener.end(due_ns=0) is None


def test_an_answer_that_ends_at_once_is_heard_when_it_ends() -> None:
    listener = Listener()
    listener.hear(ROLE, now_ns=5)
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "error": None}
    listener.hear(_event(end) + _event({"choices": None, "usage": {"completion_tokens": 1}}), now_ns=9)
    spoken = listener.end(due_ns=2)
    assert spoken is not None
    assert not listener.is_broken
    assert (spoken.first_ns, spoken.later_ns, spoken.n_tokens, spoken.gaps_ns) == (7, 0, 1, [])


def test_a_stream_that_breaks_off_is_no_answer_however_much_it_said() -> None:
    listener = Listener()
    listener.hear(ROLE + _chunk("a") + b": keep-alive\n\n" + _chunk("b") + b"event: error\ndata: {}\n\n", now_ns=5)
    assert listener.end(due_ns=0) is None
    listener.hear(DONE, now_ns=9)
    assert listener.end(due_ns=0) is not None


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_what_a_model_says_to_itself_comes_by_tokens_too(name: str) -> None:
    listener = Listener()
    listener.hear(ROLE + _event({"choices": [{"delta": {name: "hm"}}]}), now_ns=5)
    listener.hear(_chunk("a") + DONE, now_ns=9)
    spoken = listener.end(due_ns=0)
    assert spoken is not None
    assert (spoken.first_ns, spoken.n_tokens) == (5, 2)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    bundle = make_echo_bundle(tmp_path_factory.mktemp("echo"))
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        yield f"{server.url}/v1/chat/completions"


def _body(*, n: int = 6, text: str = "abc", **more: Any) -> bytes:
    asked = {"messages": [{"role": "user", "content": text}], "max_tokens": n, "stream": True, **more}
    return json.dumps(asked).encode()


def test_load_on_streams_tells_first_and_later_tokens_apart(url: str) -> None:
    result = offer_load(
        url, bodies=[_body()], rate_per_s=100, n_requests=60, bound_ms=5_000, token_bound_ms=5_000, warmup=3
    )
    assert result.tokens is not None
    assert result.tokens.each is not None
    assert result.n_ok == result.tokens.first.n == result.tokens.each.n == 60
    assert 0 < result.tokens.first.p50_ms <= result.latency.p50_ms
    assert (result.n_misses, result.tokens.n_misses) == (0, 0)
    lines = "\n".join(result.lines())
    assert "first token" in lines
    assert "each later token" in lines


def test_the_tasks_own_streams_are_heard_too(tmp_path: Path) -> None:
    bundle = make_echo_bundle(tmp_path, task="translate", instruction="{text}")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        asked = json.dumps({"input": "abc", "stream": True, "max_tokens": 6}).encode()
        result = offer_load(f"{server.url}/v1/translate", bodies=[asked], rate_per_s=50, n_requests=10, warmup=1)
    assert result.tokens is not None
    assert (result.n_ok, result.n_errors, result.tokens.n) == (10, 0, 60)


def test_usage_tells_the_number_of_tokens_where_it_is_asked_for(url: str) -> None:
    body = _body(n=6, stream_options={"include_usage": True}, stop=["<never>"])
    result = offer_load(url, bodies=[body], rate_per_s=50, n_requests=10, warmup=1)
    assert result.tokens is not None
    assert result.tokens.n == 10 * 6  # the first of the six, a special piece, has no text


def test_answers_without_a_text_are_answers(url: str) -> None:
    bodies = [
        json.dumps({"prompt": prompt, "max_tokens": 4, "stream": True}).encode() for prompt in ([END, 65], [65, 66])
    ]
    result = offer_load(
        url.replace("chat/", ""), bodies=bodies, rate_per_s=50, n_requests=20, bound_ms=5_000, warmup=2
    )
    assert (result.n_ok, result.n_errors, result.n_misses, result.failures) == (20, 0, 0, {})


def test_bounds_that_nobody_can_keep_are_missed_by_all(url: str) -> None:
    result = offer_load(
        url, bodies=[_body(n=100, text="abc" * 40)], rate_per_s=50, n_requests=10, bound_ms=1e-4, token_bound_ms=1e-6,
        warmup=1,
    )
    assert result.tokens is not None
    assert result.n_misses == 10
    assert result.tokens.n_misses == 10


def test_streams_and_whole_answers_have_no_common_number(url: str) -> None:
    with pytest.raises(RunFailed, match="all ask for a stream, or none"):
        offer_load(url, bodies=[_body(), _body(stream=False)], rate_per_s=50, n_requests=10, warmup=1)


def test_bench_speaks_of_tokens_at_the_command_line(url: str, tmp_path: Path) -> None:
    bodies = tmp_path / "bodies.jsonl"
    bodies.write_bytes(_body())
    ran = CliRunner().invoke(
        app, ["bench", url, "--bodies", str(bodies), "--seconds", "0.5", "--token-bound", "1 s", "--json"]
    )
    told = json.loads(ran.stdout)
    assert told["tokens"]["first"]["p99_ms"] > 0
    assert told["tokens"]["n_misses"] == 0


@pytest.mark.parametrize(("per_token", "status"), [("2 s", "kept"), ("0.001 ms", "broken")])
def test_a_contract_on_tokens_is_proved_clause_by_clause(tmp_path: Path, per_token: str, status: str) -> None:
    bundle = make_echo_bundle(tmp_path, contract=Contract(p50="2 s", rate="100/s", per_token=per_token))
    proof = prove(bundle.path, n_requests=40)
    first, each = proof.verdict.clauses
    if proof.load.void is None:
        assert (first.name, first.status) == ("first token p50", "kept")
        assert (each.name, each.status) == ("each later token p50", status)
    assert open_bundle(bundle.path).certificate is not None
    assert (bundle.path / "report.html").is_file()
    assert '<html lang="zh-Hans">' in (bundle.path / "report.zh.html").read_text(encoding="utf-8")


def test_the_report_of_what_speaks_tells_of_tokens_and_of_tricks(tmp_path: Path) -> None:
    bundle = make_echo_bundle(tmp_path, contract=Contract(p50="2 s", rate="100/s", per_token="1500 ms"))
    without, faster = (Answer(ids=(1, 2), first_ms=100, token_ms=ms) for ms in (10, 7))
    other = Answer(ids=(1, 3), first_ms=100, token_ms=7)
    trials = [
        judge_trick(name, [(without, answer)] * 8, against="2 threads")
        for name, answer in (("1 thread", faster), ("lookup of 5", other))
    ]
    forge(bundle, rungs=[msgspec.to_builtins(msgspec.structs.replace(bundle.rung(), tricks=tuple(trials)))])
    proof = prove(bundle.path, n_requests=40)
    assert proof.load.tokens is not None
    pages = [(bundle.path / name).read_text("utf-8") for name in ("report.html", "report.zh.html")]
    text, chinese = (re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]+>", " ", page))) for page in pages)
    first = proof.load.tokens.first
    for told in (
        "first token at p50 within 2000 ms at 100 requests/s, each later token within 1500 ms", "First token through HTTP",
        f"first token {first.p50_ms:.2f} {first.p90_ms:.2f} {first.p95_ms:.2f} {first.p99_ms:.2f}", "each later token", "tokens a second",
        "1 thread ✓ kept 2 threads 8 / 8 100 100 10.00 7.00 faster in the later pieces",
        "lookup of 5 not kept 2 threads 0 / 8 100 100 10.00 7.00 it changes 8 of 8 answers", "The rung that serves was proven",
    ):  # fmt: skip
        assert told in text, told
    assert "Latency through HTTP" not in text
    assert "首个词元 p50 不超过 2000 ms" in chinese
    assert "lookup of 5 不保留" in chinese


def test_a_file_as_it_came_has_a_ceiling_too(tmp_path: Path) -> None:
    bundle = make_echo_bundle(tmp_path, contract=Contract(p50="2 s", rate="100/s"))
    parts: dict[str, Path | bytes] = {name: bundle.path / name for name in bundle.manifest.files}
    save_bundle(bundle.path, manifest=bundle.manifest, parts={**parts, "rungs/fake/model.gguf": bytes(1_000_000)})
    proof = prove(bundle.path, n_requests=40)
    assert proof.ceiling is not None
    assert proof.ceiling.weights_bytes == 1_000_000
    assert "a token reads 1.0 MB of weights" in proof.lines()[-1]


def test_a_ceiling_that_was_undercut_is_told_to_be_none() -> None:
    ceiling = Ceiling(weights_bytes=135_000_000, bandwidth_gb_per_s=27.0, least_ms=5.0)
    assert ceiling.tell(10.0).endswith("5.00 ms at least: p50 is 2.0 times that")
    assert ceiling.tell(4.0).endswith("p50 is below that: memory was busy when it was measured")


def test_a_contract_on_tokens_wants_answers_by_tokens(tmp_path: Path) -> None:
    bundle = make_echo_bundle(tmp_path, contract=Contract(p50="2 s", rate="100/s", per_token="1 s"))
    with pytest.raises(InvalidValue, match="per_token"):
        prove(bundle.path, n_requests=5, bodies=[b'{"prompt": "abc", "max_tokens": 3}'])


def test_a_contract_with_a_bound_per_token_is_written_and_read_back() -> None:
    contract = Contract(p99="300 ms", per_token="12 ms")
    assert "each later token <= 12 ms" in str(contract)
    assert Contract.from_record(contract.record()) == contract
    older = contract.record()
    del older["per_token_ms"]
    assert Contract.from_record(older) == Contract(p99="300 ms")


def test_a_closed_generator_says_so_at_once() -> None:
    from millis.backends.generator import Sampling, Step

    generator, told = FakeGenerator(), list[Step]()
    generator.close()
    generator.start([1], sampling=Sampling(max_tokens=1), emit=told.append)
    assert [one.ending for one in told] == ["failed"]
