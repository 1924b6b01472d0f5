"""A device that batches, through the real server: the fake backend in its batching form."""

import asyncio
import json
import socket
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

URL = "/v1/ner"
DEVICE = Batching(max_rows=16, max_tokens=512)


def metrics(server: Supervisor) -> dict[str, float]:
    """Give all counts by name, the first label's value behind it: `millis_batch_rows_sum fake`."""
    found: dict[str, float] = {}
    for line in httpx.get(f"{server.url}/metrics").text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A device that takes 5 ms for a run and 0.02 ms for a token."""
    folder = tmp_path_factory.mktemp("device")
    bundle = make_fake_bundle(folder, delay_ms=5.0, token_ms=0.02, batching=DEVICE, p99="200 ms")
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as running:
        yield running


def test_served_answers_equal_loaded_answers_alone_and_among_others(device: Supervisor) -> None:
    model = millis.load(device.bundles[0])
    texts = [f"maria garcia 😀 from 上海 {'eu rejects german call ' * (i % 20)}{i}" for i in range(60)]
    wanted = model(texts)
    with httpx.Client(base_url=device.url, timeout=30) as client, ThreadPoolExecutor(16) as pool:
        patient = {"X-Deadline-Ms": "20000"}
        got = list(pool.map(lambda text: client.post(URL, json={"input": text}, headers=patient).json()["results"][0], texts))
        listed = client.post(URL, json={"input": texts}, headers=patient).json()["results"]
    assert got == wanted
    assert listed == wanted
    rows, batches = (metrics(device)[f'millis_batch_rows_{one}{{model="fake"}}'] for one in ("sum", "count"))
    assert rows / batches > 4
