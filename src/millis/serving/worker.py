"""One process of a server: load, warm, listen, answer until told to stop.

Run by the supervisor as `python -m millis.serving.worker SETTINGS SOCKET READY CONTROL METRICS`: settings as JSON,
three inherited file descriptors, a folder. It listens only when it is warm; it says "ready" on READY; it stops in peace
when CONTROL closes, which is what happens when the parent dies.
Border: process matters; answers come from the app.
"""

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn
import uvloop

from millis.bundles import Bundle, load, open_bundle
from millis.errors import MillisError
from millis.serving.app import Served, make_app, settle_memory
from millis.serving.execution import Executor, LoopExecutor, ThreadExecutor
from millis.serving.polling import Polling
from millis.serving.protocol import Protocol
from millis.serving.settings import ServeSettings, read_settings
from millis.telemetry.metrics import Metrics


def make_executor(bundle: Bundle, *, threads: int | None) -> Executor:
    """Load a bundle's serving rung behind the executor that its layout (or the operator) names, and warm it."""
    n = bundle.manifest.serving.threads if threads is None else threads
    model = load(bundle, streams=max(n, 1))
    model.warm()
    return ThreadExecutor(model, n=n) if n else LoopExecutor(model)


def run_worker(settings: ServeSettings, *, listener: socket.socket, ready: int, control: int, metrics: Path) -> None:
    """Serve on an already bound socket until SIGTERM or until control closes."""
    served = []
    for path in settings.bundles:
        bundle = open_bundle(path)
        served.append(Served(bundle, make_executor(bundle, threads=settings.threads)))
    bounds = {one.bundle.name: float(one.bundle.manifest.contract["bound_ms"]) for one in served}
    app = make_app(
        served,
        limits=settings.limits,
        metrics=Metrics(folder=metrics, bounds_ms=bounds),
        polling=(polling := _make_polling(settings, served)),
    )
    settle_memory()
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http=Protocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(settings.grace_s),
        )
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(server, listener, polling=polling, ready=ready, control=control))
    for one in served:
        one.executor.close()


def _make_polling(settings: ServeSettings, served: Sequence[Served]) -> Polling:
    models = itertools.cycle([one.executor.model for one in served])

    def run_example() -> None:
        model = next(models)
        model.answer(model.task.example)

    return Polling(settings.poll_ms, keep_warm=run_example if settings.keep_warm else None)


async def _serve(
    server: uvicorn.Server, listener: socket.socket, *, polling: Polling, ready: int, control: int
) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(control)
        server.should_exit = True

    loop.add_reader(control, stop)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.002)
    try:
        os.write(ready, b"ready\n")
    except BrokenPipeError:  # the parent ended while this loaded
        server.should_exit = True
    polling.go_on()
    await serving


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
