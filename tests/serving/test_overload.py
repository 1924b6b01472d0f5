"""More work than there is time for, through the real server: who is answered, by which rung, and who is refused."""

import asyncio
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest

from making import body, forge, make_fake_bundle
from millis.bundles import LatencyRow
from millis.measuring.bench import offer_load
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

pytestmark = pytest.mark.slow

URL = "/v1/ner"


def ask(server: Supervisor, n: int, **options: object) -> list[httpx.Response]:
    """Send n requests at once."""

    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, limits=httpx.Limits(max_connections=n), timeout=30) as client:
            return await asyncio.gather(*(client.post(URL, **options) for _ in range(n)))  # type: ignore[arg-type]

    return asyncio.run(send())


def metric(server: Supervisor, name: str) -> float:
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        if line.startswith(name):
            return float(line.rpartition(" ")[2])
    return 0.0


@pytest.mark.parametrize("threads", [0, 2])
def test_who_would_be_late_is_refused_with_the_time_to_come_again(tmp_path: Path, threads: int) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=50.0, threads=threads)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        answers = ask(server, 20, json={"input": "maria"}, headers={"X-Deadline-Ms": "300"})
        refused = [one for one in answers if one.status_code == 503]
        assert {one.status_code for one in answers} <= {200, 503, 504}
        assert any(one.status_code == 200 for one in answers)
        assert len(refused) >= 4
        for one in refused:
            problem = one.json()
            # Who was read last may have come first by a hair, and would then go before those admitted.
            assert problem["type"] in ("/problems/would-be-late", "/problems/would-make-others-late")
            assert problem["type"] != "/problems/would-be-late" or problem["predicted_ms"] > 200
            assert 0 < problem["retry_after_ms"] < 5000
            assert int(one.headers["retry-after"]) >= 1
        counted = [metric(server, f'millis_refusals_total{{reason="{one}"') for one in ("would-be-late", "would-make-others-late")]
        assert sum(counted) == len(refused)
        assert httpx.post(f"{server.url}{URL}", json={"input": "maria"}).status_code == 200


def test_a_request_that_names_no_deadline_is_answered_however_long_it_takes_alone(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=30.0, p99="10 ms")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        answer = httpx.post(f"{server.url}{URL}", json={"input": ["maria"] * 5}, timeout=30)
        assert len(answer.json()["results"]) == 5
        refused = httpx.post(f"{server.url}{URL}", json={"input": "maria"}, headers={"X-Deadline-Ms": "10"})
        assert refused.status_code == 503


@pytest.mark.slow
def test_a_list_makes_room_for_others_between_its_texts(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=20.0, p99="200 ms")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:

        async def send() -> tuple[float, float]:
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
                began = time.monotonic()
                long = asyncio.create_task(client.post(URL, json={"input": ["maria"] * 40}))
                await asyncio.sleep(0.1)
                assert (await client.post(URL, json={"input": "maria"})).status_code == 200
                short = time.monotonic() - began
                assert (await long).status_code == 200
                return short, time.monotonic() - began

        short, long = asyncio.run(send())
        assert short < long / 2


def test_when_time_is_short_the_faster_rung_answers_and_says_how_good_it_is(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=100.0, faster_ms=1.0)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        at_ease = httpx.post(f"{server.url}{URL}", json={"input": "maria"})
        assert (at_ease.headers["x-millis-rung"], at_ease.json()["quality"]) == ("fake", {"F1": 90.0})
        hurried = httpx.post(f"{server.url}{URL}", json={"input": "maria"}, headers={"X-Deadline-Ms": "80"})
        assert (hurried.headers["x-millis-rung"], hurried.json()["quality"]) == ("fake-fast", {"F1": 85.0})
        assert hurried.json()["results"] == at_ease.json()["results"]
        for asked in ({"rung": "fake"}, {"fallback": False}):
            refused = httpx.post(f"{server.url}{URL}", json={"input": "maria", **asked}, headers={"X-Deadline-Ms": "80"})
            assert (refused.status_code, refused.json()["rung"]) == (503, "fake-fast")
            assert refused.json()["type"] == "/problems/deadline-too-short"
            assert "retry_after_ms" not in refused.json()
            assert "retry-after" not in refused.headers
        pinned = httpx.post(f"{server.url}{URL}", json={"input": "maria", "rung": "fake-fast"})
        assert pinned.headers["x-millis-rung"] == "fake-fast"
        unknown = httpx.post(f"{server.url}{URL}", json={"input": "maria", "rung": "other"})
        assert unknown.status_code == 404
        assert "fake, fake-fast" in unknown.json()["detail"]
        crowd = ask(server, 12, json={"input": "maria"}, headers={"X-Deadline-Ms": "400"})
        assert {one.status_code for one in crowd} <= {200, 503, 504}
        assert [one.headers.get("x-millis-rung") for one in crowd].count("fake-fast") >= 6
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["rungs"] == ["fake", "fake-fast"]


def test_without_fallback_one_rung_is_loaded(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=1.0, faster_ms=0.5)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, fallback=False)) as server:
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["rungs"] == ["fake"]


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.slow
def test_the_work_of_clients_that_went_away_is_not_done(tmp_path: Path, threads: int) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=100.0, threads=threads, p99="10 s")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        port = int(server.url.rpartition(":")[2])
        payload = body("maria")
        head = f"POST {URL} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(payload)}\r\n\r\n".encode()
        for _ in range(100):  # ten seconds of work
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(head + payload)
        began = time.monotonic()
        assert httpx.post(f"{server.url}{URL}", json={"input": "maria"}, timeout=30).status_code == 200
        assert time.monotonic() - began < 5


@pytest.mark.slow
def test_twice_the_load_that_fits_is_answered_in_time_or_refused_at_once(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=10.0, p99="200 ms")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        payload = json.dumps({"input": "maria"}).encode()
        load = offer_load(f"{server.url}{URL}", bodies=[payload], rate_per_s=200, n_requests=600, bound_ms=200)
    assert load.n_refused > 100
    assert load.n_ok > 150
    assert load.n_ok + load.n_refused == 600
    assert load.latency.p50_ms < 250
    assert load.refusals is not None
    assert load.refusals.p50_ms < 100


@pytest.mark.slow
def test_a_crowd_without_deadlines_is_refused_by_the_contracts_bound_in_whole_answers(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=40.0, p99="200 ms")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:

        async def send() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
                await asyncio.gather(*(client.get("/health/live") for _ in range(40)))  # the connections are there
                return await asyncio.gather(*(client.post(URL, json={"input": f"maria {i}"}) for i in range(40)))

        answers = asyncio.run(send())
        refused = [one for one in answers if one.status_code == 503]
        assert {one.status_code for one in answers} <= {200, 503, 504}
        assert len(refused) > 15
        for one in refused:
            assert one.headers["content-type"] == "application/problem+json"
            assert one.json()["type"] == "/problems/would-be-late"
            assert int(one.headers["retry-after"]) >= 1
        time.sleep(0.3)  # sheds are counted together
        assert metric(server, 'millis_refusals_total{reason="would-be-late"') == len(refused)
        assert metric(server, 'millis_requests_total{route="/v1/ner",status="503"}') == len(refused)
        patient = httpx.post(f"{server.url}{URL}", json={"input": "maria"}, headers={"X-Deadline-Ms": "5000"})
        assert patient.status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "body_sent"),
    [
        ("Content-Length: 18", '{"input": "maria"}'),
        ("Content-Length: 18\r\nX-Deadline-Ms: 60000", '{"input": "maria"}'),
        ("Transfer-Encoding: chunked", '12\r\n{"input": "maria"}\r\n0\r\n\r\n'),
        ("Content-Length: 18\r\nExpect: 100-continue", '{"input": "maria"}'),
        ("Content-Length: 18\r\nConnection: close", '{"input": "maria"}'),
        ("Content-Length: 36", '{"input": "maria"}{"input": "maria"}'),
    ],
)
def test_a_request_that_is_not_plain_meets_no_short_way_while_others_wait(tmp_path: Path, head: str, body_sent: str) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=30.0, p99="100 ms")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        port = int(server.url.rpartition(":")[2])

        async def send() -> bytes:
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
                crowd = [asyncio.create_task(client.post(URL, json={"input": "maria"})) for _ in range(12)]
                await asyncio.sleep(0.1)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(f"POST {URL} HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body_sent}".encode())
                while (first := await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 100"):
                    await reader.readline()
                writer.close()
                await asyncio.gather(*crowd)
                return first

        first = asyncio.run(send())
        wanted = (b"200",) if "60000" in head else (b"200", b"400", b"503", b"504")
        assert first.split()[1] in wanted, first
        assert httpx.post(f"{server.url}{URL}", json={"input": "maria"}).status_code == 200


def test_a_list_whose_deadline_passed_is_not_run_to_its_end(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=20.0, faster_ms=20.0)
    forge(bundle, rungs=tuple(msgspec.structs.replace(rung, latency=(LatencyRow(tokens=32, p50_ms=1.0, p99_ms=1.0, n=1),)) for rung in bundle.manifest.rungs))
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0, fallback=False)) as server:
        began = time.monotonic()
        answer = httpx.post(f"{server.url}{URL}", json={"input": ["maria"] * 100}, headers={"X-Deadline-Ms": "400"}, timeout=30)
        assert time.monotonic() - began < 1.5  # two seconds of work, promised by a table that is wrong
        assert (answer.status_code, answer.json()["type"]) == (504, "/problems/deadline-passed")


def test_where_no_answer_can_keep_the_contract_nobody_is_refused_for_it(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=20.0, p99="1 ms")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:

        async def send() -> set[int]:
            async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
                await asyncio.gather(*(client.get("/health/live") for _ in range(12)))  # the connections are there
                return {one.status_code for one in await asyncio.gather(*(client.post(URL, json={"input": f"maria {i}"}) for i in range(60)))}

        assert asyncio.run(send()) == {200}


@pytest.mark.slow
def test_health_is_answered_while_others_are_refused(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=10.0, p99="100 ms")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server, ThreadPoolExecutor(1) as pool:
        payload = json.dumps({"input": "maria"}).encode()
        load = pool.submit(offer_load, f"{server.url}{URL}", bodies=[payload], rate_per_s=300, n_requests=900)
        time.sleep(1.0)
        began = time.monotonic()
        assert httpx.get(f"{server.url}/health", timeout=10).status_code == 200
        assert time.monotonic() - began < 2.0
        assert not load.done()
        assert load.result().n_refused > 200


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="a thread's priority is read from /proc")
def test_threads_that_infer_let_the_event_loop_go_first(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, threads=2)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        httpx.post(f"{server.url}{URL}", json={"input": "maria"})
        (worker,) = server.pids
        nice = [int((task / "stat").read_text().rpartition(")")[2].split()[16]) for task in Path(f"/proc/{worker}/task").iterdir()]
        assert sorted(one - min(nice) for one in nice)[-2:] == [5, 5]
        loop = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[16])
        assert loop == min(nice)
        assert sum(one > loop for one in nice) == 2
