"""What is no request, and who does not stay: a short run of benchmarks/fuzz.py through a real server."""

import asyncio
from pathlib import Path

import pytest

from fuzz import ask_plainly, fuzz, list_good, list_wrong, read_memory, storm
from making import make_fake_bundle
from millis.serving.settings import ServeSettings
from millis.serving.supervisor import Supervisor


@pytest.mark.slow
@pytest.mark.parametrize("threads", [0, 2])
def test_broken_requests_and_clients_that_leave_harm_nobody(tmp_path: Path, capfd: pytest.CaptureFixture[str], threads: int) -> None:
    bundle = make_fake_bundle(tmp_path, delay_ms=1.0, threads=threads)
    with Supervisor(ServeSettings(bundles=(str(bundle.path),), port=0)) as server:
        port, (pid,) = int(server.url.rsplit(":", 1)[1]), server.pids
        good = list_good("ner", "fake")
        seen = asyncio.run(fuzz(port, good, n=1000, seed=7))
        assert not list_wrong(seen)
        assert sum(seen.values()) > 700
        before = read_memory(pid)
        assert not list_wrong(asyncio.run(storm(port, good, n=2000, seed=7)))
        assert read_memory(pid) - before < 30_000_000
        asyncio.run(ask_plainly(port, good[0]))
        assert server.pids == [pid]
    assert capfd.readouterr().err == "", "no client can make the server write into its log"
