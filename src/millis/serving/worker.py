"""One process of a server: listen when told to, answer until told to stop.

It begins in starting.py, which loads its models. It listens only when it is warm and told to; it speaks to the parent
on READY and hears it on CONTROL (messages.py); it stops in peace when CONTROL closes, which is what happens when the
parent dies.
Border: process matters; answers come from the app.
"""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import uvicorn
import uvloop

from millis.errors import MissingExtra
from millis.security.audit import AuditLog
from millis.security.certificates import Certificates
from millis.security.keys import KeyFile, KeyRing
from millis.security.quotas import Quotas
from millis.security.rates import Rates
from millis.serving.accepting import Acceptor, Connections, Counts
from millis.serving.admin import Admin
from millis.serving.app import App
from millis.serving.caching import AnswerCache
from millis.serving.clock import SocketClock
from millis.serving.dispatching import make_executor
from millis.serving.executor import Executor
from millis.serving.following import Follower, Load
from millis.serving.gate import Gate
from millis.serving.generating import Talker
from millis.serving.live_protocol import LiveProtocol
from millis.serving.memory import settle_memory
from millis.serving.messages import Loaded, Ready, write_line
from millis.serving.observing import Observer
from millis.serving.placement import Placement
from millis.serving.polling import Polling
from millis.serving.protocol import Protocol, watch
from millis.serving.served import Served
from millis.serving.settings import Limits, ServeSettings, join_address
from millis.serving.shedding import Shedder
from millis.serving.versions import open_version
from millis.telemetry.logs import Log
from millis.telemetry.metrics import Metrics
from millis.telemetry.slowest import Slowest, slowest_file
from millis.telemetry.traces import Traces

if TYPE_CHECKING:
    from millis.serving.grpc import Port
    from millis.serving.search import Search

_MOST_FILES = 65_536
_OWN_FILES = 100
"""Of a worker beside its connections: models, metrics, logs."""


def run_worker(
    settings: ServeSettings, *, placement: Placement, load: Load, listener: socket.socket, ready: int, control: int,
    metrics: Path,
) -> None:  # fmt: skip
    """Serve on an already bound socket until SIGTERM or until control closes.

    Args:
        load: opens, loads and warms a version.
    """
    os.set_blocking(ready, False)  # a parent that does not listen holds nobody up
    clock = SocketClock()
    threads = settings.threads or 0
    n_workers = settings.workers or 1
    counts = Metrics(folder=metrics)
    executor = make_executor(threads=threads, clock=clock, note=counts.batch)
    log = Log(settings.log_format)
    log.take_over_logging()
    gate = _make_gate(settings, log=log, shared=metrics)
    polling = Polling(settings.poll_ms, keep_warm=executor.run_idle if settings.keep_warm else None)
    observer = Observer(
        metrics=counts, log=log, slowest=Slowest(slowest_file(metrics, os.getpid())), executor=executor,
        traces=Traces(settings.traces) if settings.traces else None,
    )  # fmt: skip
    shedder = Shedder(executor, observer=observer, gate=gate)

    def serve(loaded: Sequence[Served | Talker]) -> None:
        served = [one for one in loaded if isinstance(one, Served)]
        talkers = [one for one in loaded if isinstance(one, Talker)]
        observer.expect(served, talkers)
        app.serve(served, talkers)
        shedder.serve(served)
        if port is not None:
            port.calls.serve(served)

    follower = Follower(ready=ready, executor=executor, serve=serve, load=load)
    app = App(
        executor=executor,
        gate=gate,
        limits=settings.limits,
        observer=observer,
        polling=polling,
        cache=AnswerCache(settings.cache_bytes // n_workers) if settings.cache_bytes else None,
        search=_open_search(settings, placement) if settings.indexes else None,
        more=Admin(
            follower, gate=gate, folders=settings.models_from, has_keys=settings.keys is not None, slowest=metrics
        ).routes(),
    )
    limits = _fit(settings.limits, n_ports=1 if settings.grpc_port is None else 2)
    certificates = _open_certificates(settings, log=log)
    port = None
    if settings.grpc_port is not None:
        port = _make_port(
            app, address=join_address(listener.getsockname()[0], settings.grpc_port), limits=limits, executor=executor,
            gate=gate, observer=observer, clock=clock, certificates=certificates, grace_s=settings.grace_s,
        )  # fmt: skip
    notes = follower.begin(placement)
    settle_memory()
    bound = {"clock": clock, "shedder": shedder, "limits": limits}
    config = _configure(app, settings, bound=bound, certificates=certificates)
    server = _Server(config, shared=metrics, patience_s=limits.head_s)
    server.port = port
    observer.on_look(gate.share)
    if certificates is not None:
        observer.on_look(certificates.follow)
    said = Loaded(revision=placement.revision, notes=notes)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pipes = {"ready": ready, "control": control}
        runner.run(
            _serve(server, listener, polling=polling, follower=follower, observer=observer, said=said, **pipes)
        )
    follower.close()
    executor.close()
    gate.share()
    gate.close()
    observer.close()


def _make_gate(settings: ServeSettings, *, log: Log, shared: Path) -> Gate:
    """Make the gate.

    Args:
        shared: folder of this server's workers.
    """
    return Gate(
        keys=KeyRing(KeyFile(settings.keys), tell=log.tell) if settings.keys else None,
        audit=_open_audit(settings),
        tell=log.tell,
        rates=Rates(shared / "rates", tell=log.tell) if settings.keys else None,
        quotas=Quotas(f"{settings.keys}.used") if settings.keys else None,
    )


def _open_audit(settings: ServeSettings) -> AuditLog | None:
    if settings.audit is None:
        return None
    return AuditLog(settings.audit, seals=settings.audit_seals, file_bytes=settings.audit_file_bytes)


def _open_certificates(settings: ServeSettings, *, log: Log) -> Certificates | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificates(settings.tls_certificate, settings.tls_key, tell=log.tell)


def _configure(
    app: App, settings: ServeSettings, *, bound: dict[str, Any], certificates: Certificates | None
) -> uvicorn.Config:
    """Say how uvicorn is to serve.

    Args:
        bound: what each connection's protocol has of this worker.
    """
    return uvicorn.Config(
        app,
        loop="uvloop",
        http=type("BoundProtocol", (Protocol,), bound),
        ws=LiveProtocol,
        ws_max_size=settings.limits.body_bytes,
        ws_per_message_deflate=False,  # a few words are no shorter for it
        lifespan="off",
        log_config=None,  # Log took over
        log_level="error",  # a warning for each request that is no HTTP would let strangers fill the log
        access_log=False,
        server_header=False,
        ssl_context_factory=(lambda *_: certificates.context) if certificates is not None else None,
        timeout_graceful_shutdown=int(settings.grace_s),
        timeout_keep_alive=settings.limits.idle_s,  # type: ignore[arg-type]  # it is handed to call_later
    )


class _Server(uvicorn.Server):
    """HTTP's server, which takes no more connections than its share, and stops together with the port for gRPC.

    Args:
        shared: folder of this server's workers.
        patience_s: see Acceptor.
    """

    port: "Port | None" = None

    def __init__(self, config: uvicorn.Config, *, shared: Path, patience_s: float) -> None:
        super().__init__(config)
        self._connections = self.server_state.connections = Connections(Counts(shared))
        self._patience_s = patience_s
        self._acceptors: list[Acceptor] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets=[])
        for listener in sockets or []:
            acceptor = Acceptor(
                listener, backlog=self.config.backlog, make=self._make_protocol, tls=self.config.ssl,
                patience_s=self._patience_s, connections=self._connections,
            )  # fmt: skip
            self._acceptors.append(acceptor)
            self.servers.append(acceptor)  # type: ignore[arg-type]  # it closes as a server does

    def _make_protocol(self) -> asyncio.BaseProtocol:
        made: asyncio.BaseProtocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take nothing more, and finish what was taken."""
        await asyncio.gather(*(acceptor.stop() for acceptor in self._acceptors))
        stopping = [super().shutdown(sockets)]
        if self.port is not None:
            stopping.append(self.port.stop())
        await asyncio.gather(*stopping)


def _make_port(
    app: App, *, address: str, executor: Executor, gate: Gate, limits: Limits, observer: Observer, clock: SocketClock,
    certificates: Certificates | None, grace_s: float,
) -> "Port":  # fmt: skip
    try:
        from millis.serving.grpc import Port  # grpc and protobuf are an extra
        from millis.serving.oip_calls import Calls
    except ImportError as error:
        raise MissingExtra("--grpc-port needs gRPC: pip install 'millis[grpc]'.") from error
    calls = Calls(app.make_route, executor=executor, gate=gate, limits=limits, observer=observer)
    return Port(
        calls, address=address, clock=clock, limits=limits, certificates=certificates, grace_s=grace_s
    )


def _open_search(settings: ServeSettings, placement: Placement) -> "Search":
    from millis.serving.search import open_search  # the vectors' library is an extra

    return open_search(settings.indexes, bundles=[open_version(one.serving) for one in placement.models])


def _fit(limits: Limits, *, n_ports: int) -> Limits:
    """Raise the system's limit on open files as far as it goes, and allow each port no more connections than fit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return msgspec.structs.replace(limits, connections=max(min(limits.connections, (soft - _OWN_FILES) // n_ports), 1))


async def _serve(
    server: _Server, listener: socket.socket, *, polling: Polling, follower: Follower, observer: Observer,
    said: Loaded, ready: int, control: int,
) -> None:  # fmt: skip
    told = asyncio.Event()

    def stop() -> None:
        server.should_exit = True
        told.set()

    follower.start(control, listen=told.set, stop=stop)
    watching = [
        asyncio.create_task(one) for one in (watch(server.server_state.connections), observer.watch())
    ]
    if write_line(ready, said):  # else the parent ended while this loaded
        await told.wait()
        if not server.should_exit:
            await _answer(server, listener, polling=polling, ready=ready)
    for one in watching:
        one.cancel()
    follower.stop()


async def _answer(server: _Server, listener: socket.socket, *, polling: Polling, ready: int) -> None:
    if server.port is not None:
        await server.port.start()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.002)
    if not write_line(ready, Ready()):
        server.should_exit = True
    polling.go_on()
    await serving
