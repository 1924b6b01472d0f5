"""The device's thread, in this process, on a fake device that can be made slow or broken."""

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from making import make_fake_bundle
from millis.backends import BackendSettings, Batch, Batching
from millis.backends.fake import FakeBackend, write_fake
from millis.bundles import Model
from millis.bundles.model import load_task
from millis.serving.batching import BatchExecutor
from millis.serving.loading import load_version
from millis.serving.prediction import Forecast
from millis.serving.scheduling import NEVER, Job, Ladder, Refused
from millis.serving.served import Served
from millis.serving.versions import make_version

BROKEN_ID = 6  # a word of the tiny vocabulary


class Device(FakeBackend):
    """A fake device that says what it ran, and fails on rows with a certain word."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    slow_s = 0.0
    is_broken = False

    def run(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """Give logits."""
        self.sizes.append(len(batch["input_ids"]))
        time.sleep(self.slow_s)
        if self.is_broken and (batch["input_ids"] == BROKEN_ID).any():
            raise RuntimeError("this device fails on that word")
        return super().run(batch)


class Bench:
    """An executor in front of a device, predicted to take 2 ms for a run."""

    def __init__(self, folder: Path) -> None:
        bundle = make_fake_bundle(folder, batching=Batching(max_rows=8, max_tokens=256))
        write_fake(folder / "device", labels=5, batching=Batching(max_rows=8, max_tokens=256))
        self.device = Device()
        self.device.load(folder / "device", settings=BackendSettings())
        model = Model(load_task(bundle), self.device, rung=bundle.rung(None), name="fake")
        self.ladder = Ladder("fake", [model], Forecast([model.rung], warm_ns=[[(256, 2e6)]]))
        self.noted: list[dict[str, Any]] = []
        self.executor = BatchExecutor(note=lambda **values: self.noted.append(values))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        self.executor.add(self.ladder)

        async def warmed() -> Any:
            await self.executor.warm(self.ladder)
            while self.executor._runs is not None:
                await asyncio.sleep(0.001)
            self.device.sizes = []
            return await work

        try:
            return asyncio.run(warmed())
        finally:
            self.executor.close()

    async def started(self, n: int = 1) -> None:
        """Wait until the device has begun so many runs."""
        while len(self.device.sizes) < n:
            await asyncio.sleep(0.001)

    def hold_up(self) -> None:
        """Keep the loop busy until the device has nothing left to take, as whatever else a server does may."""
        while self.executor.n_waiting:
            time.sleep(0.001)

    async def answer(self, *texts: str, within_ms: float | None = None) -> Job:
        now = time.perf_counter_ns()
        deadline_ns = NEVER if within_ms is None else now + int(1e6 * within_ms)
        job = Job(self.ladder, texts, came_ns=now, deadline_ns=deadline_ns, is_own_deadline=within_ms is not None, places=range(1))
        await self.executor.answer(job)
        return job


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_is_late_when_its_turn_comes_is_refused_and_never_reaches_the_device(bench: Bench) -> None:
    async def ask() -> list[Any]:
        bench.device.slow_s = 0.2  # nobody predicted that
        first = asyncio.create_task(bench.answer("maria"))
        await bench.started()
        late = [asyncio.create_task(bench.answer("maria", within_ms=60)) for _ in range(5)]
        patient = asyncio.create_task(bench.answer("maria", within_ms=5000))
        return await asyncio.gather(first, patient, *late, return_exceptions=True)

    first, patient, *late = bench.run(ask())
    assert (first.rung, patient.rung) == (0, 0)
    assert {type(one) for one in late} == {Refused}
    assert {(one.slug, one.status) for one in late} == {("deadline-passed", 504)}
    assert bench.device.sizes == [1, 1]
    assert bench.ladder.forecast.speed > 1.5, "it learns how slow the device is"


def test_a_row_that_fails_costs_its_own_request_alone(bench: Bench) -> None:
    async def ask() -> list[Any]:
        bench.device.is_broken = True
        bench.device.slow_s = 0.05
        first = asyncio.create_task(bench.answer("wrote"))
        await bench.started()
        return await asyncio.gather(*(bench.answer(text) for text in ("wrote", "garcia", "lisbon")), first, return_exceptions=True)

    fine, broken, other, first = bench.run(ask())
    assert [type(one) for one in (fine, broken, other, first)] == [Job, RuntimeError, Job, Job]
    assert fine.results == first.results
    assert bench.device.sizes == [1, 3, 1, 1, 1]


def test_a_list_of_which_a_batch_fails_ends_with_what_went_wrong(bench: Bench) -> None:
    async def ask() -> list[Any]:
        bench.device.is_broken = True
        asking = asyncio.gather(bench.answer("maria garcia wrote", *["maria"] * 12), return_exceptions=True)
        await bench.started()
        bench.hold_up()
        return await asking

    (broken,) = bench.run(ask())
    assert isinstance(broken, RuntimeError), broken
    assert bench.device.sizes == [8, *[1] * 8, 5]


def test_a_list_whose_last_batch_comes_too_late_has_no_answer(bench: Bench) -> None:
    async def ask() -> list[Any]:
        bench.device.slow_s = 0.1  # nobody predicted that
        asking = asyncio.gather(bench.answer(*["maria"] * 12, within_ms=60), return_exceptions=True)
        await bench.started()
        bench.hold_up()
        return await asking

    (late,) = bench.run(ask())
    assert isinstance(late, Refused), late.results
    assert late.slug == "deadline-passed"
    assert bench.device.sizes == [8]


def test_a_batch_is_noted_with_its_padding(bench: Bench) -> None:
    async def ask() -> None:
        bench.device.slow_s = 0.05
        first = asyncio.create_task(bench.answer("maria"))
        await bench.started()
        await asyncio.gather(first, bench.answer("maria"), bench.answer("maria garcia wrote"))

    bench.run(ask())
    assert bench.noted == [
        {"model": "fake", "n_rows": 1, "n_tokens": 3, "n_padding": 0},
        {"model": "fake", "n_rows": 2, "n_tokens": 8, "n_padding": 2},
    ]


def test_a_ladder_is_let_go_when_nothing_of_it_runs(bench: Bench) -> None:
    async def leave() -> float:
        bench.device.slow_s = 0.2
        asking = asyncio.create_task(bench.answer("maria"))
        await bench.started()
        asking.cancel()
        began = time.monotonic()
        await bench.executor.remove(bench.ladder)
        return time.monotonic() - began

    assert bench.run(leave()) > 0.05, "the device still ran it"
    assert bench.device.sizes == [1]


def test_an_idle_device_is_kept_warm_and_a_busy_one_left_alone(bench: Bench) -> None:
    async def idle() -> list[int]:
        bench.executor.run_idle()
        await bench.started()
        ran = list(bench.device.sizes)
        bench.device.slow_s = 0.05
        asking = asyncio.create_task(bench.answer("maria"))
        await bench.started(2)
        bench.executor.run_idle()
        await asking
        return ran

    assert bench.run(idle()) == [1]
    assert bench.device.sizes == [1, 1]


def test_what_a_batch_takes_is_timed_when_its_model_is_loaded(tmp_path: Path) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=4.0, token_ms=0.1, batching=Batching(max_rows=8, max_tokens=200))
    served = load_version(make_version(bundle), threads=0, has_fallback=True, n_workers=1)
    assert isinstance(served, Served)
    try:
        for n_tokens in (16, 50, 96, 128):
            wanted_ms = 4.0 + 0.1 * n_tokens
            said_ms = served.ladder.forecast.run_ns(0, [n_tokens]) / 1e6
            assert wanted_ms <= said_ms < 1.4 * wanted_ms + 3.0, n_tokens
        assert served.ladder.is_batched
    finally:
        served.close()
