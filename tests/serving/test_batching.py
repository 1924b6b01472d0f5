"""A device that batches, through the real server: the fake backend in its batching form."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import millis
from making import body, make_fake_bundle
from millis.backends import Batching
from millis.measuring.bench import offer_load
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor

pytestmark = pytest.mark.slow

URL = "/v1/ner"
DEVICE = Batching(max_rows=8, max_tokens=256)
FIXED_MS, TOKEN_MS = 20.0, 0.02
PATIENT = {"X-Deadline-Ms": "20000"}


def count(server: Supervisor, name: str) -> float:
    """Add up a count of /metrics over what its labels tell apart; a label may stand behind the name."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """Two models on a device that takes 20 ms for a run and 0.02 ms for a token."""
    folder = tmp_path_factory.mktemp("device")
    bundles = [
        make_fake_bundle(folder, name=name, delay_ms=FIXED_MS, token_ms=TOKEN_MS, batching=DEVICE, p99="250 ms", task=task)
        for name, task in (("tags", "ner"), ("kinds", "classify"))
    ]
    with Supervisor(ServeSettings(bundles=tuple(str(one.path) for one in bundles), port=0)) as running:
        yield running


def test_served_answers_equal_loaded_answers_alone_and_among_others(device: Supervisor) -> None:
    model = millis.load(device.bundles[0])
    texts = [f"maria garcia 😀 from 上海 {'eu rejects german call ' * (i % 20)}{i}" for i in range(40)]
    wanted = model(texts)
    with httpx.Client(base_url=device.url, timeout=30) as client, ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda text: client.post(URL, json={"input": text}, headers=PATIENT).json()["results"][0], texts))
        listed = client.post(URL, json={"input": texts}, headers=PATIENT).json()["results"]
        blank = client.post(URL, json={"input": "\x00"}).json()["results"]
    assert got == wanted
    assert listed == wanted
    assert blank == [{"entities": []}]
    rows, batches = (count(device, f'millis_batch_rows_{one}{{model="tags"}}') for one in ("sum", "count"))
    assert rows / batches > 3
    assert 0 < count(device, 'millis_batch_tokens_total{kind="padding"') < count(device, 'millis_batch_tokens_total{kind="real"')


def test_an_answer_accounts_for_the_run_of_its_batch(device: Supervisor) -> None:
    began = time.monotonic()
    response = httpx.post(f"{device.url}{URL}", json={"input": "maria"})
    took_ms = 1000 * (time.monotonic() - began)
    stages = dict(entry.split(";dur=") for entry in response.headers["server-timing"].split(", "))
    assert FIXED_MS <= float(stages["run"]) <= took_ms
    assert float(stages["queue"]) < took_ms - FIXED_MS


def test_more_is_answered_than_request_by_request_at_the_same_delays_and_all_in_time(device: Supervisor, tmp_path: Path) -> None:
    payloads = [json.dumps({"input": text}).encode() for text in ("maria garcia", "eu rejects german call to boycott", "hello world")]
    load = {"bodies": payloads, "rate_per_s": 150, "n_requests": 200, "bound_ms": 250}
    alone = make_fake_bundle(tmp_path, delay_ms=FIXED_MS, token_ms=TOKEN_MS, p99="250 ms")
    before = [count(device, f'millis_promises_total{{kept="{one}",model="tags"}}') for one in ("true", "false")]
    with Supervisor(ServeSettings(bundles=(str(alone.path),), port=0)) as server, ThreadPoolExecutor(2) as pool:
        by_request, batched = pool.map(lambda url: offer_load(f"{url}{URL}", **load), (server.url, device.url))  # type: ignore[arg-type]
    assert by_request.n_ok + by_request.n_refused == batched.n_ok + batched.n_refused == 200
    assert batched.n_ok > 2 * by_request.n_ok
    after = [count(device, f'millis_promises_total{{kept="{one}",model="tags"}}') for one in ("true", "false")]
    kept, broken = (now - was for now, was in zip(after, before, strict=True))
    assert kept > 130
    assert broken <= 0.05 * kept, "this machine may halt for longer than any margin"


def test_a_model_in_demand_leaves_another_its_share(device: Supervisor) -> None:
    async def ask() -> tuple[list[int], list[int]]:
        async with httpx.AsyncClient(base_url=device.url, limits=httpx.Limits(max_connections=600), timeout=30) as client:
            texts = ["eu rejects german call to boycott " * 4] * 8

            async def flood() -> list[int]:
                sent = []
                for _ in range(15):
                    sent += [asyncio.create_task(client.post(URL, json={"input": texts})) for _ in range(6)]
                    await asyncio.sleep(0.05)
                return [one.status_code for one in await asyncio.gather(*sent)]

            async def trickle() -> list[int]:
                codes = []
                for _ in range(12):
                    await asyncio.sleep(0.05)
                    codes.append((await client.post("/v1/classify", json={"input": "hello world"})).status_code)
                return codes

            first, second = await asyncio.gather(flood(), trickle())
            return first, second

    flooded, trickled = asyncio.run(ask())
    assert flooded.count(200) > 3
    assert 503 in flooded, "there was not more work than time"
    assert trickled[1:].count(200) >= 9


def test_a_list_is_answered_by_the_faster_rung_where_time_is_short(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=40.0, faster_ms=2.0, batching=Batching(max_rows=4, max_tokens=64), p99="2 s")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        rungs = []
        for n, headers in ((1, {}), (1, {"X-Deadline-Ms": "30"}), (12, {}), (12, {"X-Deadline-Ms": "100"})):
            response = httpx.post(f"{server.url}{URL}", json={"input": ["maria"] * n}, headers=headers)
            assert response.status_code == 200, response.text
            rungs.append(response.headers["x-millis-rung"])
    assert rungs == ["fake", "fake-fast"] * 2


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A device that takes 80 ms for a run, beside a model that needs none."""
    folder = tmp_path_factory.mktemp("slow")
    slow = make_fake_bundle(folder, name="slow", delay_ms=80.0, batching=Batching(max_rows=4, max_tokens=64), p99="10 s")
    quick = make_fake_bundle(folder, name="quick", task="classify")
    with Supervisor(ServeSettings(bundles=(str(slow.path), str(quick.path)), port=0)) as running:
        yield running


def test_a_busy_device_holds_no_other_request_up(slow: Supervisor) -> None:
    with ThreadPoolExecutor(1) as pool:
        with httpx.Client(base_url=slow.url) as client:
            client.post("/v1/classify", json={"input": "hello world"})
            busy = pool.submit(httpx.post, f"{slow.url}{URL}", json={"input": ["maria"] * 20}, timeout=30)
            time.sleep(0.05)
            took_ms = []
            for ask in (lambda: client.get("/health/live"), lambda: client.post("/v1/classify", json={"input": "hello world"})) * 3:
                began = time.monotonic()
                assert ask().status_code == 200
                took_ms.append(1000 * (time.monotonic() - began))
            assert not busy.done(), "the device was not busy"
        assert max(took_ms) < 60
        assert busy.result().status_code == 200
        assert float(busy.result().headers["server-timing"].partition("run;dur=")[2].partition(",")[0]) >= 5 * 80


def test_what_clients_left_never_reaches_the_device_and_a_stop_finishes_the_rest(slow: Supervisor) -> None:
    def send(asked: object = "maria") -> socket.socket:
        payload = body(asked)
        head = f"POST {URL} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(payload)}\r\n\r\n".encode()
        client = socket.create_connection(("127.0.0.1", int(slow.url.rpartition(":")[2])), timeout=20)
        client.sendall(head + payload)
        return client

    before = count(slow, "millis_batch_rows_sum")
    first = send(["maria"] * 16)
    time.sleep(0.03)
    leaving = [send() for _ in range(30)]
    time.sleep(0.03)
    for client in leaving:
        client.close()
    time.sleep(0.01)
    last = send()
    assert first.recv(12) == last.recv(12) == b"HTTP/1.1 200"
    assert count(slow, "millis_batch_rows_sum") - before == 16 + 1
    patient = [send() for _ in range(6)]
    time.sleep(0.04)
    stopping = threading.Thread(target=slow.stop)
    stopping.start()
    assert [client.recv(12) for client in patient] == [b"HTTP/1.1 200"] * 6
    stopping.join()
    for client in (first, last, *patient):
        client.close()
