"""The server through its front door: real processes, real sockets."""

import concurrent.futures
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import msgspec
import pytest

import millis
from making import ask_raw, body, make_fake_bundle
from millis.cores import n_cores, read_quota
from millis.errors import InvalidBundle, InvalidValue, MissingExtra
from millis.security.keys import KeyFile
from millis.serving.placement import Placed, Placement
from millis.serving.settings import Limits, ServeSettings, write_settings
from millis.serving.supervisor import Supervisor
from millis.serving.versions import make_version

TEXT = "maria garcia of northwind wrote 😀 from 上海"


def port_of(server: Supervisor) -> int:
    return int(server.url.rsplit(":", 1)[1])


def assert_problem(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    is_of_model = problem["type"].endswith("/unknown-model")  # the only one here whose member is known
    assert set(problem) == {"type", "title", "status", "detail", *(["param"] if is_of_model else [])}
    assert problem["status"] == status
    assert len(problem["detail"]) > 20


def assert_serves(server: Supervisor) -> None:
    response = httpx.post(f"{server.url}/v1/ner", json={"input": TEXT})
    assert response.status_code == 200


def test_an_answer_accounts_for_its_milliseconds(server: Supervisor) -> None:
    response = httpx.post(f"{server.url}/v1/ner", json={"input": TEXT}, headers={"X-Request-Id": "mine"})
    assert response.status_code == 200
    answer = response.json()
    assert answer["model"] == "fake"
    assert len(answer["results"]) == 1
    for one in answer["results"][0]["entities"]:
        assert TEXT[one["start"] : one["end"]] == one["text"]
    stages = [entry.split(";dur=")[0] for entry in response.headers["server-timing"].split(", ")]
    assert stages == ["parse", "queue", "tokenize", "run", "decode", "write"]
    assert response.headers["x-millis-rung"] == "fake"
    assert response.headers["x-request-id"] == "mine"


def test_served_answers_equal_loaded_answers_alone_and_among_others(server: Supervisor) -> None:
    model = millis.load(server.bundles[0])
    texts = [f"{TEXT} {'eu rejects german call ' * (i % 30)}{i}" for i in range(200)]
    wanted = model(texts)
    with httpx.Client(base_url=server.url) as client, concurrent.futures.ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda text: client.post("/v1/ner", json={"input": text}).json()["results"][0], texts))
        listed = client.post("/v1/ner", json={"input": texts[:50]}).json()["results"]
    assert got == wanted
    assert listed == wanted[:50]


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400), (b"{", 400), (b"not json", 400), (b'{"input": NaN}', 400), (b"\xff\xfe", 400), (b'{"input": "\xff"}', 400),
        (b'{"input": "\\ud800"}', 400), (b"[" * 100_000, 422), (b'{"input": ' + b"[" * 100_000, 422), (b"null", 422), (b"[]", 422),
        (b"{}", 422), (b'{"input": 3}', 422), (b'{"input": [1]}', 422), (b'{"input": null}', 422), (b'{"input": {}}', 422),
        (b'{"text": "a"}', 422), (b'{"input": "a", "top_k": 3}', 422), (b'{"input": "a", "model": 3}', 422),
        (b'{"input": ""}', 422), (b'{"input": []}', 422), (b'{"input": ["a", ""]}', 422),
        (b'{"input": "a", "model": "other"}', 404), (b'{"input": "a", "model": "../../etc/passwd"}', 404),
        (b'{"input": ' + b"9" * 100_000 + b"}", 422), (b'{"input": "a", "model": ' + b'{"a":' * 100_000, 422), (b'{"input": "a"}{}', 400),
        ('{"input": "a"}'.encode("utf-16"), 400), (gzip.compress(b'{"input": "a"}', mtime=0), 415), (b"input=a", 400), (json.dumps({"input": "x" * 50_001}).encode(), 413),
        (json.dumps({"input": ["x"] * 10_000}).encode(), 413), (b'{"input": "' + b"x" * 10_000_000 + b'"}', 413),
    ],
)  # fmt: skip
def test_bad_input_gets_a_problem_and_the_next_request_is_served(
    server: Supervisor, content: bytes, status: int
) -> None:
    assert_problem(httpx.post(f"{server.url}/v1/ner", content=content, timeout=30), status)
    assert_serves(server)


@pytest.mark.parametrize(
    ("path", "content"),
    [("/v1/ner", '{"input": "a"}'), ("/v2/models/fake/infer", '{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}')],
)  # fmt: skip
def test_half_a_surrogate_pair_is_told_as_such_wherever_it_stands(server: Supervisor, path: str, content: str) -> None:
    for text in ("\\ud800", "\\ud83d and more text", "\\ude42"):
        refused = httpx.post(f"{server.url}{path}", content=content.replace('"a"', f'"{text}"'))
        assert refused.status_code == 400
        assert "surrogate pair" in refused.text
    assert "truncated" in httpx.post(f"{server.url}{path}", content=content[:-3]).text


def test_a_key_that_is_not_known_is_refused_without_repeating_it(server: Supervisor) -> None:
    refused = httpx.post(f"{server.url}/v1/ner", content=b'{"input": "a", "my secret' + b"x" * 5_000 + b'": 1}')
    assert_problem(refused, 422)
    assert "secret" not in refused.text


@pytest.mark.parametrize(
    "text",
    ["\u0000", "a\u0000b", "😀" * 100, "مرحبا بالعالم", "\u202eabc", " ", "\t\n", "\U0010ffff", "é" * 1000, "上海" * 500, "a" * 50_000],
)  # fmt: skip
def test_strange_text_gets_an_answer(server: Supervisor, text: str) -> None:
    response = httpx.post(f"{server.url}/v1/ner", json={"input": text}, timeout=30)
    assert response.status_code == 200
    assert len(response.json()["results"]) == 1


def test_unknown_routes_and_wrong_methods_are_problems(server: Supervisor) -> None:
    assert_problem(httpx.get(f"{server.url}/v3/nothing"), 404)
    assert_problem(httpx.get(f"{server.url}/page/../../etc/passwd"), 404)
    assert_problem(httpx.get(f"{server.url}/page/app.py"), 404)
    assert_problem(httpx.get(f"{server.url}/page/{'a' * 3_000}.html"), 404)
    assert_problem(httpx.get(f"{server.url}/page/%00.html"), 404)
    for method in ("PUT", "OPTIONS", "GET"):
        wrong = httpx.request(method, f"{server.url}/v1/ner")
        assert_problem(wrong, 405)
        assert "POST" in wrong.headers["allow"]
    for route in ("/health", "/health/live", "/metrics", "/contract", "/v1/models", "/openapi.json", "/"):
        assert_problem(httpx.post(f"{server.url}{route}"), 405)
        assert httpx.head(f"{server.url}{route}").status_code == 200
    assert_serves(server)


def test_a_slash_too_many_sends_nobody_to_where_the_host_header_says(server: Supervisor) -> None:
    for route in ("/v1/ner/", "/health/", "//v1/ner"):
        answer = httpx.post(f"{server.url}{route}", json={"input": "a"}, headers={"Host": "evil.example"})
        assert_problem(answer, 404)
        assert "location" not in answer.headers


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"FOO /v1/ner HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        b"POST /v1/ner HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/ner HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /v1/ner HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST /v1/ner HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        b"POST /v1/ner HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    ],
)
def test_what_is_not_http_gets_a_problem_and_harms_nobody(server: Supervisor, request_bytes: bytes) -> None:
    head, _, content = ask_raw(port_of(server), request_bytes).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"content-type: application/problem+json" in head
    assert json.loads(content)["status"] == 400
    assert_serves(server)


def test_a_body_in_chunks_is_read(server: Supervisor) -> None:
    sent = (part for part in (b'{"inp', b'ut": "a"', b"}"))
    assert httpx.post(f"{server.url}/v1/ner", content=sent).status_code == 200


def test_a_body_that_does_not_arrive_is_refused_in_time(tmp_path: Path) -> None:
    settings = ServeSettings(bundles=(str(make_fake_bundle(tmp_path).path),), port=0, limits=Limits(body_s=0.2))
    with Supervisor(settings) as server:
        head = b"POST /v1/ner HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n"
        for begun in (b"", b'{"input":'):
            answer = ask_raw(port_of(server), head + begun)
            assert answer.startswith(b"HTTP/1.1 408")
            assert b"application/problem+json" in answer
        assert_serves(server)


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(server: Supervisor) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port_of(server))) as peer:
            peer.sendall(b"POST /v1/ner HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n{")
    assert_serves(server)


def test_the_descriptions_say_what_is_served(server: Supervisor) -> None:
    models = httpx.get(f"{server.url}/v1/models").json()
    assert models["data"][0]["id"] == "fake"
    assert models["data"][0]["labels"] == ["ORG", "PER"]
    contracts = httpx.get(f"{server.url}/contract").json()["data"]
    assert contracts[0]["contract"]["bound_ms"] == 1000.0
    description = httpx.get(f"{server.url}/openapi.json").json()
    assert description["openapi"].startswith("3.1")
    every = {"400", "408", "431", "503"}
    for route, refused in {
        "/v1/ner": {"401", "403", "404", "413", "415", "422", "429", "504"}, "/v1/models": {"401", "429"}, "/metrics": {"401", "403", "429"},
        "/health": {"401", "429", "504"}, "/health/live": set(), "/v2/models/fake/ready": {"401", "404", "429", "504"},
        "/v1/admin/models": {"401", "403", "404", "409", "413", "422", "429", "504"},
    }.items():  # fmt: skip
        (operation, *_) = description["paths"][route].values()
        assert operation["responses"].keys() - {"200"} == refused | every, route
    tensors = description["paths"]["/v2/models/fake/infer"]["post"]["responses"]
    assert set(tensors["404"]["content"]) == {"application/json"}
    assert set(tensors["431"]["content"]) == {"application/json", "application/problem+json"}
    assert "Retry-After" in tensors["503"]["headers"]
    for route in description["paths"]:
        assert httpx.request("POST" if route == "/v1/ner" else "GET", f"{server.url}{route}", json=None).status_code != 404


def test_every_answer_says_how_long_it_took(server: Supervisor) -> None:
    for method, route, content, status in (
        ("POST", "/v1/ner", b"{", 400), ("POST", "/v1/ner", b'{"input": "x", "model": "other"}', 404), ("GET", "/v1/models", b"", 200),
        ("GET", "/nothing", b"", 404), ("POST", "/v2/models/fake/infer", b"{}", 422), ("GET", "/health", b"", 200),
    ):  # fmt: skip
        answer = httpx.request(method, f"{server.url}{route}", content=content)
        assert answer.status_code == status
        (name, ms), = (one.strip().split(";dur=") for one in answer.headers["server-timing"].split(","))
        assert name == "total"
        assert 0 < float(ms) < 10_000


def test_health_runs_a_real_inference(server: Supervisor) -> None:
    health = httpx.get(f"{server.url}/health").json()
    assert health["status"] == "ready"
    assert health["models"]["fake"]["ms"] > 0
    assert httpx.get(f"{server.url}/health/live").json() == {"status": "alive"}


def test_metrics_count_answers_over_all_workers(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, workers=2)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        for _ in range(20):
            httpx.post(f"{server.url}/v1/ner", json={"input": TEXT})
        httpx.post(f"{server.url}/v1/ner", content=b"{")
        text = httpx.get(f"{server.url}/metrics").text
    assert 'millis_requests_total{route="/v1/ner",status="200"} 20.0' in text
    assert 'millis_requests_total{route="/v1/ner",status="400"} 1.0' in text
    assert 'le="0.05"' in text, "the contract's bound is an edge of the histogram"
    assert "maria" not in text


def test_a_killed_worker_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, workers=2)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        stop = threading.Event()
        watcher = threading.Thread(target=server.watch_until, args=(stop,))
        watcher.start()
        try:
            first, second = server.pids
            os.kill(first, signal.SIGKILL)
            deadline = time.monotonic() + 20
            while server.n_restarts == 0 or len(server.pids) < 2:
                assert time.monotonic() < deadline
                assert httpx.post(f"{server.url}/v1/ner", json={"input": TEXT}).status_code == 200
            assert second in server.pids
            assert first not in server.pids
        finally:
            stop.set()
            watcher.join()


def test_one_that_stands_by_takes_a_dead_workers_place_and_is_replaced(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, standby=True)) as server:
        stop = threading.Event()
        watcher = threading.Thread(target=server.watch_until, args=(stop,))
        watcher.start()
        try:
            for _ in range(2):
                (serving,), standby = server.pids, wait_for_standby(server)
                assert {httpx.get(f"{server.url}/health/live").status_code for _ in range(20)} == {200}
                os.kill(serving, signal.SIGKILL)
                deadline = time.monotonic() + 20
                while server.ready_pids != [standby]:
                    assert time.monotonic() < deadline
                    time.sleep(0.001)
                assert httpx.post(f"{server.url}/v1/ner", json={"input": TEXT}).status_code == 200
            standby = wait_for_standby(server)
            os.kill(standby, signal.SIGKILL)
            assert wait_for_standby(server, other_than=standby)
            assert httpx.post(f"{server.url}/v1/ner", json={"input": TEXT}).status_code == 200
            assert server.n_restarts == 2
        finally:
            stop.set()
            watcher.join()


def wait_for_standby(server: Supervisor, *, other_than: int = 0) -> int:
    deadline = time.monotonic() + 20
    while not (found := [pid for pid in server.standby_pids if pid != other_than]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found[0]


@pytest.mark.slow
def test_a_stop_finishes_what_was_taken(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=400, threads=2)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        url = server.url
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(httpx.post, f"{url}/v1/ner", json={"input": TEXT}, timeout=20) for _ in range(2)]
            deadline = time.monotonic() + 10
            while "millis" not in httpx.get(f"{url}/metrics").text and time.monotonic() < deadline:
                if any(one.done() for one in asked):
                    break
                if all(one.running() for one in asked):
                    break
            time.sleep(0.15)
            server.stop()
            assert [one.result().status_code for one in asked] == [200, 200]
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_who_comes_while_a_server_stops_is_refused_at_once(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=1500, threads=1)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
        url, (host, port) = server.url, server.url.removeprefix("http://").split(":")
        asked = pool.submit(httpx.post, f"{url}/v1/ner", json={"input": TEXT}, timeout=20)
        time.sleep(0.3)
        stopping = pool.submit(server.stop)
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)
        assert not stopping.done()
        assert asked.result().status_code == 200
        stopping.result()


def test_threads_share_one_model_and_give_the_same_answers(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, threads=3, buckets=(8, 16, 32))
    texts = [f"{TEXT} {i} {'order ' * (i % 20)}" for i in range(60)]
    wanted = millis.load(bundle)(texts)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server, httpx.Client(base_url=server.url) as client:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            got = list(pool.map(lambda text: client.post("/v1/ner", json={"input": text}).json()["results"][0], texts))
        timing = client.post("/v1/ner", json={"input": TEXT}).headers["server-timing"]
    assert got == wanted
    assert "queue;dur=" in timing


def test_several_bundles_are_served_by_name(tmp_path: Path) -> None:
    paths = tuple(str(make_fake_bundle(tmp_path, name=name).path) for name in ("one", "two"))
    with Supervisor(ServeSettings(bundles=paths, port=0)) as server:
        assert httpx.post(f"{server.url}/v1/ner", json={"input": "a", "model": "two"}).json()["model"] == "two"
        assert httpx.post(f"{server.url}/v1/ner", json={"input": "a"}).json()["model"] == "one"
        assert_problem(httpx.post(f"{server.url}/v1/ner", json={"input": "a", "model": "three"}), 404)


def test_what_cannot_be_served_is_refused_before_a_port_is_taken(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    same = str(bundle.path)
    with pytest.raises(InvalidBundle, match="two bundles"):
        Supervisor(ServeSettings(bundles=(same, same)))
    with pytest.raises(InvalidValue, match="nothing to serve"):
        ServeSettings(bundles=())
    for port in (70_000, -1):
        with pytest.raises(InvalidValue, match="port"):
            ServeSettings(bundles=(same,), port=port)
    for grace_s in (-1.0, float("nan"), 1e9):
        with pytest.raises(InvalidValue, match="grace"):
            ServeSettings(bundles=(same,), grace_s=grace_s)
    KeyFile(tmp_path / "keys.json").create(name="", scopes=["*"])
    keys = str(tmp_path / "keys.json")
    with pytest.raises(InvalidValue, match="cannot listen on no-such-host"):
        Supervisor(ServeSettings(bundles=(same,), host="no-such-host.invalid", port=0, keys=keys)).__enter__()
    with Supervisor(ServeSettings(bundles=(same,), port=0)) as server:
        taken = int(server.url.rsplit(":", 1)[1])
        with pytest.raises(InvalidValue, match="cannot listen"), Supervisor(ServeSettings(bundles=(same,), port=taken)):
            pass
    (bundle.path / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidBundle, match=r"tokenizer\.json"):
        Supervisor(ServeSettings(bundles=(same,)))


def test_a_library_that_a_worker_misses_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent/grpc.py").write_text("raise ImportError('grpc is not installed')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "absent"), os.environ.get("PYTHONPATH", "")]))
    settings = ServeSettings(bundles=(str(make_fake_bundle(tmp_path).path),), port=0, grpc_port=0)
    with pytest.raises(MissingExtra, match=r"pip install 'millis\[grpc\]'"), Supervisor(settings):
        pass


def test_limits_are_the_operators_to_set(tmp_path: Path) -> None:
    settings = ServeSettings(
        bundles=(str(make_fake_bundle(tmp_path).path),), port=0, limits=Limits(body_bytes=200, texts=2, characters=50)
    )
    with Supervisor(settings) as server:
        assert_problem(httpx.post(f"{server.url}/v1/ner", content=b" " * 201), 413)
        assert_problem(httpx.post(f"{server.url}/v1/ner", content=body(["a"] * 3)), 413)
        assert_problem(httpx.post(f"{server.url}/v1/ner", content=body("x" * 51)), 413)
        assert httpx.post(f"{server.url}/v1/ner", content=body("x" * 50)).status_code == 200


def test_a_worker_whose_parent_left_before_it_was_ready_ends_in_silence(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    settings = ServeSettings(bundles=(str(bundle.path),), port=0)
    placed = Placed(name="fake", serving=make_version(bundle, number=1))
    placement = msgspec.json.encode(Placement(models=(placed,))).decode()
    ready, ready_end = os.pipe()
    control_end, control = os.pipe()
    for end in (ready, control):
        os.close(end)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptors = (listener.fileno(), ready_end, control_end)
        done = subprocess.run(
            [sys.executable, "-m", "millis.serving.starting", write_settings(settings), placement, *map(str, descriptors), tmp_path],
            pass_fds=descriptors, capture_output=True, timeout=30,
        )  # fmt: skip
    for end in (ready_end, control_end):
        os.close(end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path)
    parent = subprocess.Popen(
        [sys.executable, "-m", "millis", "serve", str(bundle.path), "--port", "0", "--json"], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    told = json.loads(parent.stdout.readline())
    assert httpx.get(f"{told['url']}/health").status_code == 200
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in told["workers"]):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.02)


def _ticks(pid: int) -> int:
    """Give the processor time of a process in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processor time of another process is read from /proc")
@pytest.mark.skipif(n_cores() < 2 or read_quota() is not None, reason="a worker polls only where it leaves a core")
@pytest.mark.parametrize(("poll_ms", "workers", "threads"), [(1000.0, 1, 0), (0.0, 1, 0), (1000.0, n_cores(), 0), (1000.0, 1, 1)])
def test_a_worker_looks_for_the_next_request_for_a_while_and_then_sleeps(
    tmp_path: Path, poll_ms: float, workers: int, threads: int
) -> None:
    may_poll = poll_ms > 0 and workers < n_cores() and threads == 0
    bundle = make_fake_bundle(tmp_path, workers=workers, threads=threads)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, poll_ms=poll_ms)) as server:
        assert httpx.post(f"{server.url}/v1/ner", json={"input": "maria"}).status_code == 200
        began = sum(map(_ticks, server.pids))
        time.sleep(0.8)
        awake = sum(map(_ticks, server.pids)) - began
        time.sleep(0.6)
        began = sum(map(_ticks, server.pids))
        time.sleep(0.5)
        asleep = sum(map(_ticks, server.pids)) - began
    assert awake > 20 if may_poll else awake < 10
    assert asleep < 10


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processor time of another process is read from /proc")
@pytest.mark.skipif(n_cores() < 2 or read_quota() is not None, reason="a worker is kept warm only where it leaves a core")
def test_a_worker_kept_warm_runs_its_model_while_nobody_asks_and_answers_all_the_same(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, workers=1, threads=0)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keep_warm=True)) as server:
        began = _ticks(server.pids[0])
        deadline = time.monotonic() + 5  # half a second is enough on a quiet machine
        while _ticks(server.pids[0]) - began <= 20:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "entities" in httpx.post(f"{server.url}/v1/ner", json={"input": "maria"}).json()["results"][0]
        counted = httpx.get(f"{server.url}/metrics").text
    assert 'millis_requests_total{route="/v1/ner",status="200"} 1.0' in counted


def test_keeping_warm_where_no_core_is_left_is_refused(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, workers=n_cores(), threads=0)
    with pytest.raises(InvalidValue, match=r"--keep-warm needs .* a core more"):
        Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keep_warm=True))


@pytest.mark.slow
@pytest.mark.skipif(n_cores() < 2 or read_quota() is not None, reason="a worker is kept warm only where it leaves a core")
def test_keeping_warm_runs_no_example_between_the_texts_of_a_list(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=20.0)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, keep_warm=True)) as server:
        began = time.monotonic()
        assert httpx.post(f"{server.url}/v1/ner", json={"input": ["maria"] * 50}, timeout=30).status_code == 200
        assert time.monotonic() - began < 1.6  # one second of work; twice that with an example after each
