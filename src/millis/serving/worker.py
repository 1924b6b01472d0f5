"""One process of a server: load, warm, listen, answer until told to stop.

Run by the supervisor as `python -m millis.serving.worker SETTINGS SOCKET READY CONTROL METRICS`: settings as JSON,
three inherited file descriptors, a folder. It listens only when it is warm; it says "ready" on READY; it stops in peace
when CONTROL closes, which is what happens when the parent dies.
Border: process matters; answers come from the app.
"""

import asyncio
import contextlib
import os
import resource
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvicorn
import uvloop

from millis.bundles import Bundle, Model, load_ladder, open_bundle
from millis.errors import MillisError
from millis.security.audit import AuditLog
from millis.security.keys import KeyFile, KeyRing
from millis.serving.app import Served, make_app, settle_memory
from millis.serving.caching import AnswerCache
from millis.serving.clock import SocketClock
from millis.serving.embeddings import EMBEDDING, EMBEDDINGS
from millis.serving.execution import Executor, LoopExecutor, ThreadExecutor
from millis.serving.gate import Gate
from millis.serving.polling import Polling
from millis.serving.prediction import Forecast
from millis.serving.protocol import Protocol, watch
from millis.serving.scheduling import Ladder
from millis.serving.settings import Limits, ServeSettings, read_settings
from millis.serving.shedding import Shedder
from millis.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from millis.serving.search import Search

_MOST_FILES = 65_536
_OWN_FILES = 100
"""Of a worker beside its connections: models, metrics, logs."""


def make_executor(
    bundles: Sequence[Bundle], *, clock: SocketClock, threads: int | None = None, has_fallback: bool = True
) -> Executor:
    """Load what bundles serve behind the executor that their layout (or the operator) names, and warm it."""
    n = max(bundle.manifest.serving.threads for bundle in bundles) if threads is None else threads
    ladders = [make_ladder(load_ladder(bundle, streams=max(n, 1), has_fallback=has_fallback)) for bundle in bundles]
    return ThreadExecutor(ladders, n=n) if n else LoopExecutor(ladders, clock=clock)


def make_ladder(models: Sequence[Model]) -> Ladder:
    """Warm rungs and put them behind a forecast."""
    warm_ns = [[(n, 1e6 * ms) for n, ms in model.warm()] for model in models]
    return Ladder(models[0].name, models, Forecast([model.rung for model in models], warm_ns=warm_ns))


def run_worker(settings: ServeSettings, *, listener: socket.socket, ready: int, control: int, metrics: Path) -> None:
    """Serve on an already bound socket until SIGTERM or until control closes."""
    clock = SocketClock()
    bundles = [open_bundle(path) for path in settings.bundles]
    executor = make_executor(bundles, clock=clock, threads=settings.threads, has_fallback=settings.fallback)
    served = [Served(*pair) for pair in zip(bundles, executor.ladders, strict=True)]
    bounds = {one.bundle.name: float(one.bundle.manifest.contract["bound_ms"]) for one in served}
    gate = Gate(
        keys=KeyRing(KeyFile(settings.keys)) if settings.keys else None,
        audit=AuditLog(settings.audit) if settings.audit else None,
        n_workers=settings.workers or 1,
    )
    polling = Polling(settings.poll_ms, keep_warm=executor.run_idle if settings.keep_warm else None)
    counts = Metrics(folder=metrics, bounds_ms=bounds)
    app = make_app(
        served,
        executor=executor,
        gate=gate,
        limits=settings.limits,
        metrics=counts,
        polling=polling,
        cache=AnswerCache(settings.cache_bytes // (settings.workers or 1)) if settings.cache_bytes else None,
        search=_open_search(settings, bundles) if settings.indexes else None,
    )
    settle_memory()
    bound = {"clock": clock, "shedder": _make_shedder(executor, served, counts, gate), "limits": _fit(settings.limits)}
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http=type("BoundProtocol", (Protocol,), bound),
            ws="none",
            lifespan="off",
            log_level="error",  # a warning for each request that is no HTTP would let strangers fill the log
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(settings.grace_s),
            timeout_keep_alive=settings.limits.idle_s,  # type: ignore[arg-type]  # it is handed to call_later
        )
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(server, listener, polling=polling, ready=ready, control=control))
    executor.close()
    gate.close()


def _open_search(settings: ServeSettings, bundles: Sequence[Bundle]) -> "Search":
    from millis.serving.search import open_search  # the vectors' library is an extra

    return open_search(settings.indexes, bundles=bundles)


def _fit(limits: Limits) -> Limits:
    """Raise the system's limit on open files as far as it goes, and allow no more connections than that lets in."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return msgspec.structs.replace(limits, connections=max(min(limits.connections, soft - _OWN_FILES), 1))


def _make_shedder(executor: Executor, served: Sequence[Served], metrics: Metrics, gate: Gate) -> Shedder:
    tasks = [one.bundle.manifest.task for one in served]
    routes = {
        f"/v1/{task}".encode(): (one.ladder, int(1e6 * one.usual_ms))
        for task, one in zip(tasks, served, strict=True)
        if tasks.count(task) == 1  # else the body says which model
    }
    if tasks.count(EMBEDDING) == 1:
        routes[EMBEDDINGS.encode()] = routes[f"/v1/{EMBEDDING}".encode()]
    return Shedder(executor, routes=routes, metrics=metrics, gate=gate)


async def _serve(
    server: uvicorn.Server, listener: socket.socket, *, polling: Polling, ready: int, control: int
) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(control)
        server.should_exit = True

    loop.add_reader(control, stop)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    watching = asyncio.create_task(watch(server.server_state.connections))
    while not server.started and not serving.done():
        await asyncio.sleep(0.002)
    try:
        os.write(ready, b"ready\n")
    except BrokenPipeError:  # the parent ended while this loaded
        server.should_exit = True
    polling.go_on()
    await serving
    watching.cancel()


def main() -> int:
    """Read the command line that the supervisor wrote; say what went wrong in one line on READY."""
    settings, listener, ready, control, metrics = sys.argv[1:6]
    try:
        run_worker(
            read_settings(settings),
            listener=socket.socket(fileno=int(listener)),
            ready=int(ready),
            control=int(control),
            metrics=Path(metrics),
        )
    except MillisError as error:
        os.write(int(ready), f"failed {error.exit_code} {error}\n".encode())
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
