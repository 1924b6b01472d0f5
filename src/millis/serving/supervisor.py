"""The parent of a server: binds the port, starts workers, replaces a dead one, stops them in peace.

Border: processes and sockets; it loads no model. Workers inherit one bound socket and listen on it when they are warm.
Limits: POSIX only (inherited descriptors).
"""

import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from millis.bundles import Bundle, open_bundle
from millis.cores import n_cores, read_quota
from millis.errors import InvalidBundle, InvalidValue, MillisError, MissingExtra, RunFailed
from millis.security.certificates import make_context
from millis.security.keys import KeyFile
from millis.serving.accepting import forget_counts
from millis.serving.directing import Director
from millis.serving.listening import bind, hold
from millis.serving.messages import Failed, Loaded, Ready, Told, write_line
from millis.serving.processes import Worker, start_worker
from millis.serving.remembering import StateFile, place
from millis.serving.scratch import Scratch
from millis.serving.settings import ServeSettings, join_address
from millis.telemetry.logs import Log
from millis.telemetry.metrics import forget_process

if TYPE_CHECKING:
    import socket

_START_LIMIT_S = 120.0
_MAX_EARLY_DEATHS = 5
_EARLY_S = 2.0
_LOOK_S = 0.1
_LONGEST_WAIT_S = 60.0
_CAUSES: dict[str, type[MillisError]] = {one.slug: one for one in (InvalidBundle, InvalidValue, MissingExtra)}
"""Of a worker that cannot start; whatever else it says, the start failed."""


class Supervisor:
    """Workers on one port.

    Usage:
        with Supervisor(ServeSettings(bundles=("people.millis",), port=0)) as server:
            server.url                # "http://127.0.0.1:41234", warm and ready
            server.watch()            # replace dead workers and change models until a signal ends it; optional

    Raises (on entry):
        InvalidBundle: a bundle cannot be opened, or two have one name.
        InvalidValue: --keep-warm where no core is left; the port is taken, or the host is not this machine's;
            the TLS certificate cannot be used; --state names a file that is no such one.
        MissingExtra: a worker needs a library that is not installed.
        RunFailed: a worker could not start otherwise; the message is the worker's own.
    """

    def __init__(self, settings: ServeSettings) -> None:
        named = _open_all(settings.bundles)
        self._state = None
        if settings.state is not None:
            self._state = StateFile(Path(settings.state), named=named, folders=settings.models_from)
        recalled = self._state.recall() if self._state else place(named)
        self.bundles = recalled.bundles
        self.n_workers = settings.workers or max(bundle.manifest.serving.workers for bundle in self.bundles)
        may_poll = _leaves_a_core(self.bundles, n_workers=self.n_workers, threads=settings.threads)
        if settings.keep_warm and not may_poll:
            raise InvalidValue(
                f"--keep-warm needs inference on the event loop, a core more than the {self.n_workers} worker(s) and no"
                f" CPU quota: there are {n_cores()} core(s). Serve without it, or with --workers 1 --threads 0 on two."
            )
        if settings.keys is not None and not KeyFile(settings.keys).read():
            raise InvalidValue(f"there is no key in {settings.keys}: `millis keys create` makes one.")
        threads = settings.threads
        if threads is None:
            threads = max(bundle.manifest.serving.threads for bundle in self.bundles)
        if settings.tls_certificate is not None and settings.tls_key is not None:
            make_context(settings.tls_certificate, settings.tls_key)
        changes: dict[str, Any] = {"workers": self.n_workers, "threads": threads}
        self.settings = msgspec.structs.replace(settings, **changes | ({} if may_poll else {"poll_ms": 0.0}))
        self._log = Log(settings.log_format)
        for note in recalled.notes:
            self._log.tell(note)
        self._director = Director(
            recalled.placement, send=self._send, tell=self._log.tell, n_versions=recalled.n_versions,
            keep=self._state.keep if self._state else None,
        )  # fmt: skip
        self.n_restarts = 0
        self._early_deaths = self._failed_starts = 0
        self._start_at: list[float] = []
        self._workers: list[Worker] = []
        self._listener: socket.socket | None = None
        self._grpc_listener: socket.socket | None = None
        self._scratch = Scratch()
        self._is_stopping = False

    @property
    def url(self) -> str:
        """Where the server answers."""
        assert self._listener is not None
        host, port = self._listener.getsockname()[:2]
        scheme = "http" if self.settings.tls_certificate is None else "https"
        return f"{scheme}://{join_address(host, port)}"

    @property
    def grpc_address(self) -> str | None:
        """Where the server answers over gRPC, None where it does not: HOST:PORT."""
        if self._grpc_listener is None:
            return None
        return join_address(*self._grpc_listener.getsockname()[:2])

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that live, without one that stands by."""
        return [worker.process.pid for worker in self._workers if not worker.stands_by]

    @property
    def ready_pids(self) -> list[int]:
        """Process ids of the workers that answer; it changes while somebody watches."""
        return [worker.process.pid for worker in self._workers if worker.is_ready]

    @property
    def standby_pids(self) -> list[int]:
        """Process ids of who stands by, loaded and warm; it changes while somebody watches."""
        return [worker.process.pid for worker in self._workers if worker.stands_by and worker.is_loaded]

    def __enter__(self) -> "Supervisor":
        self._listener = bind(self.settings.host, self.settings.port)
        try:
            self._scratch.make()
            if self.settings.grpc_port is not None:
                self._grpc_listener = hold(self.settings.host, self.settings.grpc_port)
                held = self._grpc_listener.getsockname()[1]
                self.settings = msgspec.structs.replace(self.settings, grpc_port=held)
            for _ in range(self.n_workers):  # one by one: what an interrupt finds started, it stops
                self._workers.append(self._start_worker())
            deadline = time.monotonic() + _START_LIMIT_S
            while not all(worker.is_ready for worker in self._workers):
                self._hear(timeout_s=max(deadline - time.monotonic(), 0.0), is_starting=True)
                if time.monotonic() > deadline:
                    raise RunFailed(f"the server was not ready after {_START_LIMIT_S:.0f} s: try fewer --workers.")
            if self._state is not None:
                self._state.keep(self._director.placement)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def watch(self) -> None:
        """Keep the workers alive until SIGINT, SIGTERM or SIGHUP, then return; leaving the block stops them.

        Raises:
            RunFailed: workers die as soon as they start, again and again.
        """
        stop = threading.Event()
        before = {
            number: signal.signal(number, lambda *_: stop.set())
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN  # as nohup has it
        }
        try:
            self.watch_until(stop)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def watch_until(self, stop: threading.Event) -> None:
        """Keep the workers alive, and bring them to what is asked for over HTTP, until stop is set; on any thread."""
        while not stop.is_set():
            self._hear(timeout_s=_LOOK_S)

    def stop(self) -> None:
        """Let every worker finish what it took, then end it; stopping again does nothing."""
        self._is_stopping = True
        for worker in self._workers:
            os.close(worker.control)
        for listener in (self._listener, self._grpc_listener):  # first, so that who comes now is refused at once
            if listener is not None:
                listener.close()
        self._listener = self._grpc_listener = None
        deadline = time.monotonic() + self.settings.grace_s + 2
        for worker in self._workers:
            try:
                worker.process.wait(timeout=max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            os.close(worker.ready)
        self._workers = []
        self._scratch.remove()
        self._log.close()

    def _start_worker(self, *, stands_by: bool = False) -> Worker:
        assert self._listener is not None
        worker = start_worker(
            self.settings, placement=self._director.placement, listener=self._listener, metrics=self._scratch.path
        )
        if not stands_by:
            worker.listen()
        return worker

    def _hear(self, *, timeout_s: float, is_starting: bool = False) -> None:
        """Wait for a worker to say something or to end; its end closes the pipe it speaks through."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.ready, selectors.EVENT_READ, worker)
            for key, _ in selector.select(timeout_s):
                worker = key.data
                data = os.read(worker.ready, 1 << 16)
                for said in worker.lines.feed(data):
                    self._take(worker, said)
                if not data and not self._is_stopping:
                    self._replace(worker, is_starting=is_starting)
        self._director.look()
        if self._is_stopping:
            return
        due = [at for at in self._start_at if at <= time.monotonic()]
        self._start_at = [at for at in self._start_at if at not in due]
        for _ in due:
            self._workers.append(self._start_worker(stands_by=len(self.pids) >= self.n_workers))
        is_settled = not (is_starting or self._start_at) and all(worker.is_ready for worker in self._workers)
        if self.settings.standby and is_settled:  # who stands by is not ready itself, so there is one
            self._workers.append(self._start_worker(stands_by=True))

    def _take(self, worker: Worker, said: Any) -> None:
        if isinstance(said, Failed):
            worker.failed = said
            return
        worker.is_loaded = worker.is_loaded or isinstance(said, Loaded)
        if isinstance(said, Ready):
            worker.is_ready, self._failed_starts = True, 0
        self._director.hear(worker.process.pid, said)

    def _send(self, pid: int, told: Told) -> None:
        """Tell a worker something; one that ended meanwhile hears nothing."""
        for worker in self._workers:
            if worker.process.pid == pid:
                write_line(worker.control, told)

    def _replace(self, worker: Worker, *, is_starting: bool) -> None:
        """Start a worker in the place of one that ended; give up when it could never work."""
        code = worker.process.wait()
        self._workers.remove(worker)
        os.close(worker.ready)
        os.close(worker.control)
        forget_process(self._scratch.path, worker.process.pid)
        forget_counts(self._scratch.path, worker.process.pid)
        self._director.leave(worker.process.pid)
        if worker.failed is not None or worker.stands_by:
            error: MillisError = RunFailed(f"it ended with code {code}.")
            if worker.failed is not None:
                error = _CAUSES.get(worker.failed.slug, RunFailed)(worker.failed.reason)
            if not worker.stands_by and (is_starting or not any(one.is_ready for one in self._workers)):
                raise error
            self._failed_starts += 1
            wait_s = min(2.0**self._failed_starts, _LONGEST_WAIT_S)
            self._start_at.append(time.monotonic() + wait_s)
            what = "who stood by is gone" if worker.stands_by else "a worker could not start again"
            self._log.tell(f"{what}, the others go on; next try in {wait_s:.0f} s: {error}")
            return
        if is_starting:
            raise RunFailed(f"a worker ended with code {code} before it was ready: see its last words above.")
        self._early_deaths = self._early_deaths + 1 if time.monotonic() - worker.began < _EARLY_S else 0
        if self._early_deaths >= _MAX_EARLY_DEATHS:
            raise RunFailed(f"workers end as soon as they start (code {code}): see their last words above.")
        self.n_restarts += 1
        standby = next((one for one in self._workers if one.stands_by), None)
        if standby is not None:
            self._log.tell(f"a worker ended with code {code}: the one that stood by takes its place.")
            standby.listen()
        else:
            self._log.tell(f"a worker ended with code {code}: another is started.")
            self._workers.append(self._start_worker())


def _leaves_a_core(bundles: Sequence[Bundle], *, n_workers: int, threads: int | None) -> bool:
    """Say whether workers may poll: inference runs on their loops, a core is left, and no quota counts the time."""
    of_bundles = [bundle.manifest.serving.threads for bundle in bundles]
    return not any(of_bundles if threads is None else [threads]) and n_workers < n_cores() and read_quota() is None


def _open_all(paths: Sequence[str]) -> list[Bundle]:
    bundles = [open_bundle(path) for path in paths]
    names = [bundle.name for bundle in bundles]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidBundle(f"two bundles are named {twice[0]}: give one another file name.")
    return bundles
