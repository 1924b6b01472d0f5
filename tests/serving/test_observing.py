"""What a server tells of itself: metrics, the slowest answers, log lines, traces."""

import gc
import json
import logging
import re
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from making import break_tokenizer, make_control_groups, make_fake_bundle
from millis.contract import Contract
from millis.errors import InvalidValue
from millis.security.keys import KeyFile
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor
from millis.telemetry import logs
from millis.telemetry.jitter import Jitter
from millis.telemetry.logs import Log, LogFormat
from millis.telemetry.slowest import MOST, Slow, Slowest, read_slowest, slowest_file
from speaking import make_echo_bundle

pytestmark = pytest.mark.slow

ASK = {"input": "maria garcia wrote from lisbon"}


def read_metrics(url: str) -> dict[str, float]:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def test_metrics_tell_goodput_against_the_bound_the_mix_of_rungs_and_the_queue(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=20.0, faster_ms=1.0, p99="15 ms")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        ask = f"{server.url}/v1/ner"
        for _ in range(3):
            assert httpx.post(ask, json={**ASK, "rung": "fake"}, headers={"X-Deadline-Ms": "5000"}).status_code == 200
        for _ in range(5):
            assert httpx.post(ask, json={**ASK, "rung": "fake-fast"}, headers={"X-Deadline-Ms": "5000"}).status_code == 200
        refused = httpx.post(ask, json={**ASK, "rung": "fake"}, headers={"X-Deadline-Ms": "5"})
        assert refused.status_code == 503
        time.sleep(0.6)  # what is no event is looked at twice a second
        seen = read_metrics(server.url)
    assert seen['millis_contract_bound_seconds{model="fake"}'] == 0.015
    assert seen['millis_request_seconds_count{model="fake",rung="fake"}'] == 3
    assert seen['millis_request_seconds_count{model="fake",rung="fake-fast"}'] == 5
    assert seen['millis_request_seconds_bucket{le="0.015",model="fake",rung="fake"}'] == 0
    in_time = seen['millis_request_seconds_bucket{le="0.015",model="fake",rung="fake-fast"}']
    assert seen['millis_within_contract_total{model="fake"}'] == in_time >= 3
    late = {name: value for name, value in seen.items() if name.startswith("millis_late_answers_total{")}
    assert sum(late.values()) >= 3, "by the run, or on a busy machine by what kept it from a core"
    assert seen['millis_refusals_total{reason="deadline-too-short",route="/v1/ner"}'] == 1
    assert seen['millis_promises_total{kept="true",model="fake"}'] == 8
    assert seen['millis_queue_seconds_count{model="fake"}'] == 8
    assert seen["millis_queue_length"] == 0
    assert seen['millis_forecast_margin_seconds{model="fake"}'] > 0
    assert seen['millis_stage_seconds_total{model="fake",stage="run"}'] > 0.06
    assert {"millis_gc_pause_seconds_total", "millis_core_wait_seconds_total", "millis_cpu_steal_seconds", "millis_throttled_seconds"} <= seen.keys()


def test_the_edge_of_a_models_histogram_is_its_own_bound(tmp_path: Path) -> None:
    bundles = [make_fake_bundle(tmp_path, name=name, p99=p99) for name, p99 in (("a", "7.7 ms"), ("b", "33 ms"))]
    with Supervisor(ServeSettings(bundles=tuple(str(one.path) for one in bundles), port=0)) as server:
        for name in ("a", "b"):
            assert httpx.post(f"{server.url}/v1/ner", json={**ASK, "model": name}).status_code == 200
        seen = read_metrics(server.url)
    edges = {name: {key.split('"')[1] for key in seen if f'model="{name}"' in key and "seconds_bucket" in key and "request" in key} for name in ("a", "b")}
    assert "0.0077" in edges["a"] - edges["b"]
    assert "0.033" in edges["b"] - edges["a"]


def test_of_models_that_speak_the_edges_are_the_contracts_bounds_and_goodput_and_refusals_count(tmp_path: Path) -> None:
    bundles = [
        make_echo_bundle(tmp_path, name=name, task=task, instruction="{text}", contract=Contract(p99=p99, per_token=per_token))
        for name, task, p99, per_token in (("never", "translate", "0.01 ms", "9 s"), ("soon", "summarise", "9 s", "7 s"))
    ]  # fmt: skip
    with Supervisor(ServeSettings(bundles=tuple(str(one.path) for one in bundles), port=0)) as server:
        for task in ("translate", "summarise"):
            for _ in range(2):
                assert httpx.post(f"{server.url}/v1/{task}", json={"input": "tide"}).status_code == 200
        assert httpx.post(f"{server.url}/v1/translate", json={"input": "tide"}, headers={"X-Deadline-Ms": "0.001"}).status_code == 503
        seen = read_metrics(server.url)
    assert seen['millis_first_token_seconds_bucket{le="1e-05",model="never"}'] == 0
    assert seen['millis_first_token_seconds_bucket{le="9.0",model="soon"}'] == 2
    assert seen['millis_output_token_seconds_bucket{le="7.0",model="soon"}'] == 2
    assert seen['millis_contract_bound_seconds{model="soon"}'] == 9
    assert seen['millis_within_contract_total{model="soon"}'] == 2
    assert seen.get('millis_within_contract_total{model="never"}', 0) == 0
    assert seen['millis_refusals_total{reason="deadline-too-short",route="/v1/translate"}'] == 1


def test_the_slowest_answers_of_all_workers_are_listed_with_their_stages(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=5.0, workers=2)
    keys = KeyFile(tmp_path / "keys.json")
    admin, user = (keys.create(name="", scopes=scopes)[0] for scopes in (["admin", "ner"], ["ner"]))
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keys=str(keys.path))) as server:
        for n in (1, 12, 3):
            headers = {"X-API-Key": user, "X-Request-Id": f"of-{n}"}
            assert httpx.post(f"{server.url}/v1/ner", json={"input": ["maria"] * n}, headers=headers).status_code == 200
        time.sleep(0.7)
        assert httpx.get(f"{server.url}/v1/admin/slowest", headers={"X-API-Key": user}).status_code == 403
        listed = httpx.get(f"{server.url}/v1/admin/slowest", headers={"X-API-Key": admin}).json()["data"]
    assert [one["total_ms"] for one in listed] == sorted((one["total_ms"] for one in listed), reverse=True)
    by_id = {one["request_id"]: one for one in listed}
    assert by_id.keys() == {"of-1", "of-3", "of-12"}
    longest = by_id["of-12"]
    assert longest["stages_ms"]["run"] > 55
    assert longest["total_ms"] >= sum(longest["stages_ms"].values()) - 0.01
    assert "maria" not in json.dumps(listed)


def test_a_pause_of_the_collector_is_found_in_the_request_that_it_held_up() -> None:
    watching = Jitter()
    try:
        before = time.perf_counter_ns()
        kept = [[[]] for _ in range(200_000)]
        gc.collect()
        after = time.perf_counter_ns()
        assert len(kept) == 200_000
        assert 0 < watching.attribute(before, after)["gc"] <= (after - before) / 1e6
        assert "gc" not in watching.attribute(after, after + 1)
        assert watching.gc_ns > 0
    finally:
        watching.close()


@pytest.mark.parametrize("version", [1, 2])
def test_what_a_quota_took_is_found_wherever_the_service_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    service = make_control_groups(tmp_path, monkeypatch, version=version)
    stat = service / "cpu.stat"
    stat.write_text("nr_throttled 1\nthrottled_usec 5000\n" if version == 2 else "nr_throttled 1\nthrottled_time 5000000\n")
    watching = Jitter()
    try:
        began = time.perf_counter_ns()
        stat.write_text(stat.read_text().replace("5000", "25000"))
        assert watching.attribute(began, time.perf_counter_ns())["throttle"] == 20
    finally:
        watching.close()


def test_only_the_slowest_are_kept_and_the_old_are_forgotten(tmp_path: Path) -> None:
    slowest = Slowest(slowest_file(tmp_path, 1))

    def slow(ms: float, *, at: float) -> Slow:
        return Slow(at=at, model="a", rung="b", version=1, total_ms=ms, bound_ms=1, n_tokens=3, request_id="", stages_ms={}, causes_ms={})

    for ms in range(100):
        if slowest.is_slow(ms):
            slowest.keep(slow(ms, at=time.time()))
    slowest.keep(slow(1000, at=time.time() - 3600))
    slowest.write()
    assert [one.total_ms for one in read_slowest(tmp_path)] == list(range(99, 99 - MOST + 1, -1))
    assert not slowest.is_slow(80) or len(read_slowest(tmp_path)) < MOST


@pytest.mark.slow
def test_log_lines_are_json_and_hold_no_text(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    command = [sys.executable, "-m", "millis", "serve", str(bundle.path), "--port", "0", "--json", "--log-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        url = json.loads(server.stdout.readline())["url"]
        text = "a secret of maria garcia"
        assert httpx.post(f"{url}/v1/ner", json={"input": text}, headers={"X-Request-Id": "mine"}).status_code == 200
        assert httpx.post(f"{url}/v1/ner", json={"input": text, "secret of": 1}).status_code == 422
        assert httpx.get(f"{url}/health").status_code == 200
        server.terminate()
        lines = [json.loads(line) for line in server.stderr.read().splitlines()]
    assert [(one["route"], one["status"]) for one in lines if one["event"] == "request"] == [("/v1/ner", 200), ("/v1/ner", 422), ("GET /health", 200)]
    answered, refused, _ = lines
    assert (answered["request_id"], answered["model"], answered["rung"], answered["n_texts"]) == ("mine", "fake", "fake", 1)
    assert set(answered["stages_ms"]) == {"parse", "queue", "tokenize", "run", "decode", "write"}
    assert refused["problem"] == "wrong-shape"
    assert "secret" not in json.dumps(lines)


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_error_of_ours_is_logged_by_its_class_and_places_without_its_words(form: LogFormat, capfd: pytest.CaptureFixture[str]) -> None:
    names = ("millis", "uvicorn", "uvicorn.error", "asyncio", "grpc")
    before = {name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in names}
    log = Log(form)
    log.take_over_logging()
    try:
        try:
            raise KeyError("a secret of maria")
        except KeyError:
            logging.getLogger("millis").exception("could not read %s", "a secret of maria")
            logging.getLogger("asyncio").exception("exception was never retrieved\nfuture: KeyError('a secret of maria')")
    finally:
        for name, (handlers, propagate) in before.items():
            logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate
    log.close()
    said = capfd.readouterr().err
    assert "maria" not in said
    first, second = said.splitlines()
    assert "exception was never retrieved" in second
    if form == "text":
        assert re.fullmatch(r"millis: error: could not read %s \(KeyError at test_observing.py:\d+ test_an_error.*\)", first)
        return
    line = json.loads(first)
    assert (line["level"], line["event"], line["error"]) == ("error", "could not read %s", "KeyError")
    assert "test_observing.py" in line["places"][-1]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_request_that_a_bug_of_ours_ends_costs_no_other_on_its_connection(tmp_path: Path, form: LogFormat, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = make_fake_bundle(tmp_path)
    break_tokenizer(bundle)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, log_format=form)) as server, httpx.Client(base_url=server.url) as client:
        for _ in range(5):
            assert client.post("/v1/ner", json={"input": "zebra"}).json()["type"] == "/problems/internal"
            assert client.post("/v1/ner", json={"input": "maria"}).status_code == 200
    lines = [line for line in capfd.readouterr().err.splitlines() if "Exception in ASGI application" in line]
    assert len(lines) == 5
    assert all("tokenization.py" in line and "WordPiece" not in line for line in lines)


def test_lines_that_do_not_fit_into_memory_are_counted(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_MOST_PENDING", 3)
    monkeypatch.setattr(logs, "_WRITE_S", 60.0)
    log = Log("json")
    for place in range(10):
        log.note_request(n=place)
    log.close()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [one["n"] for one in lines] == [0, 1, 2, 7]
    assert lines[-1]["event"] == "lines lost"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, as Linux has it")
def test_lines_that_found_a_full_disk_are_counted_and_the_next_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_WRITE_S", 60.0)
    log, file = Log("json"), tmp_path / "log"
    with Path("/dev/full").open("wb") as full, file.open("wb") as whole:
        monkeypatch.setattr(logs, "_STDERR", full.fileno())
        log.tell("the disk is full")
        log._write()
        monkeypatch.setattr(logs, "_STDERR", whole.fileno())
        log.tell("there is room again")
        log.close()
    assert [json.loads(line)["event"] for line in file.read_text().splitlines()] == ["there is room again", "lines lost"]


@pytest.mark.parametrize("settings", [{"log_format": "xml"}, {"traces": "localhost"}])
def test_what_cannot_be_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(InvalidValue):
        ServeSettings(bundles=("a.millis",), **settings)  # type: ignore[arg-type]


def test_an_answer_is_a_span_with_one_for_each_stage_under_its_callers() -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="pip install 'millis[traces]'")
    from millis.telemetry.traces import Traces

    exporter = sdk.InMemorySpanExporter()
    traces = Traces(exporter=exporter)
    headers = [(b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), (b"x-secret", b"maria")]
    began = time.perf_counter_ns()
    traces.record(route="/v1/ner", headers=headers, began_ns=began, stages_ns=(1000, 2000, 3000, 4000, 5000, 6000), attributes={"millis.model": "fake"})
    traces.record(route="/v1/ner", headers=[], began_ns=began, stages_ns=(), status=503, attributes={"millis.problem": "would-be-late"})
    *stages, answered, refused = exporter.get_finished_spans()
    assert [span.name for span in stages] == ["parse", "queue", "tokenize", "run", "decode", "write"]
    assert [span.end_time - span.start_time for span in stages] == [1000, 2000, 3000, 4000, 5000, 6000]
    assert {span.parent.span_id for span in stages} == {answered.context.span_id}
    assert (answered.start_time, answered.end_time) == (stages[0].start_time, stages[-1].end_time)
    assert (f"{answered.context.trace_id:x}", f"{answered.parent.span_id:x}") == ("af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert abs(answered.start_time - time.time_ns()) < 1e9
    assert (refused.attributes["http.response.status_code"], refused.status.is_ok) == (503, False)
    assert refused.parent is None
    assert "maria" not in "".join(span.to_json() for span in exporter.get_finished_spans())
    traces.close()


@pytest.mark.slow
def test_traces_reach_the_receiver_that_was_named(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="pip install 'millis[traces]'")
    got: list[bytes] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    receiver = HTTPServer(("127.0.0.1", 0), Receiver)
    Thread(target=receiver.serve_forever, daemon=True).start()
    bundle = make_fake_bundle(tmp_path)
    url = f"http://127.0.0.1:{receiver.server_port}/v1/traces"
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, traces=url)) as server:
        assert httpx.post(f"{server.url}/v1/ner", json=ASK).status_code == 200
    receiver.shutdown()
    assert any(b"tokenize" in one and b"/v1/ner" in one for one in got)
