"""What an operator can set, checked when built; the parent passes it to its workers as JSON.

Border: values only.
"""

import ipaddress
from typing import Any, get_args

import msgspec

from millis.errors import InvalidValue
from millis.security.audit import FILE_BYTES
from millis.telemetry.logs import LogFormat

_MOST_CACHE_BYTES = 64_000_000_000
_LEAST_AUDIT_BYTES = 10_000


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request may ask for, and what a connection may cost.

    Args:
        body_bytes: size of a request body.
        texts: texts in one request.
        characters: characters in one request, all its texts together.
        tokens: in one request, those of all its windows, special ones and what windows share included.
        body_s: seconds that a body may take to arrive.
        head_bytes: size of a request's head, its line and headers.
        head_s: seconds that a head may take to arrive, on a new connection from its opening, and a handshake over TLS.
        idle_s: seconds that a connection is kept between two requests.
        connections: open at the same time, in each worker.
        messages_per_s: that a connection to /v1/live may send.
        silent_s: seconds after which a connection to /v1/live is closed that sends nothing and awaits nothing.
    """

    body_bytes: int = 1_000_000
    texts: int = 256
    characters: int = 50_000
    tokens: int = 100_000
    body_s: float = 30.0
    head_bytes: int = 16_384
    head_s: float = 10.0
    idle_s: float = 5.0
    connections: int = 10_000
    messages_per_s: float = 30.0
    silent_s: float = 300.0

    def __post_init__(self) -> None:
        """Refuse limits that let nothing through."""
        if min(self.body_bytes, self.texts, self.characters, self.tokens, self.connections) < 1:
            raise InvalidValue("limits of a request cannot be below 1: give positive numbers.")
        if not 1024 <= self.head_bytes <= 1_000_000:
            raise InvalidValue(f"head_bytes cannot be {self.head_bytes}: give 1024 to 1,000,000.")
        if not 0 < self.messages_per_s <= 10_000:
            raise InvalidValue(f"messages_per_s cannot be {self.messages_per_s}: give more than 0 and up to 10,000.")
        for name in ("body_s", "head_s", "idle_s", "silent_s"):
            if not 0 < getattr(self, name) <= 3600:
                raise InvalidValue(f"{name} cannot be {getattr(self, name)}: give seconds, above 0 and up to 3600.")


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how a server runs.

    Args:
        bundles: paths of bundles.
        indexes: paths of indexes to search, each made by one of the bundles.
        port: 0 lets the system choose.
        grpc_port: where the Open Inference Protocol is spoken over gRPC; None nowhere, 0 lets the system choose.
        workers: processes; None takes the bundle's own layout.
        threads: inference threads in each worker; None takes the bundle's own layout.
        grace_s: how long a stop waits for requests that were taken.
        standby: keep a worker more, loaded and warm, that takes the place of one that dies.
        fallback: load the faster rungs too and answer by them when time is short.
        poll_ms: how long a worker looks for the next request, after an answer, before it sleeps; 0 saves power.
        keys: file of API keys; without it the server listens on loopback only.
        tls_certificate, tls_key: PEM files; with them the server speaks https. Changed files are taken up at once.
        audit: folder of the audit log.
        audit_seals: folder of what seals it; the same when None.
        audit_file_bytes: size from which on another file of it is begun.
        models_from: folders below which bundles may be loaded while the server runs.
        state: file in which what is served is kept, to be served again after a restart.
        log_format: "json" writes a line for each request too.
        traces: address of an OTLP receiver over HTTP; None makes no traces.
        cache_bytes: of answers that are kept for texts that come again, all workers together; 0 keeps none.
        keep_warm: never sleep, and run each model's example when there is nothing else to do: a core is busy always.
    """

    bundles: tuple[str, ...]
    indexes: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    workers: int | None = None
    threads: int | None = None
    grace_s: float = 10.0
    standby: bool = False
    fallback: bool = True
    poll_ms: float = 10.0
    keep_warm: bool = False
    keys: str | None = None
    audit: str | None = None
    audit_seals: str | None = None
    audit_file_bytes: int = FILE_BYTES
    tls_certificate: str | None = None
    tls_key: str | None = None
    models_from: tuple[str, ...] = ()
    state: str | None = None
    log_format: LogFormat = "text"
    traces: str | None = None
    cache_bytes: int = 0
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        """Refuse what cannot be served."""
        if not self.bundles:
            raise InvalidValue("nothing to serve: name at least one bundle.")
        if self.keys is None and not _is_loopback(self.host):
            raise InvalidValue(
                f"without keys a server listens on this machine alone, not on {self.host}: name with --keys a file that"
                " `millis keys create` wrote, or leave --host out."
            )
        if self.models_from and self.keys is None:
            raise InvalidValue(
                "--models-from lets models be loaded by whoever has a key of the scope admin: name with --keys a file"
                " that `millis keys create --scope admin` wrote."
            )
        if self.state is not None and self.keys is None:
            raise InvalidValue(
                "--state remembers what whoever has a key of the scope admin changed: name with --keys a file that"
                " `millis keys create --scope admin` wrote."
            )
        if self.audit_seals is not None and self.audit is None:
            raise InvalidValue("--audit-seals is for what seals an audit log: name that log's folder with --audit.")
        if self.audit_file_bytes < _LEAST_AUDIT_BYTES:
            raise InvalidValue(f"an audit log's file cannot end at {self.audit_file_bytes} bytes: give 10kB or more.")
        for port in (self.port, self.grpc_port or 0):
            if not 0 <= port <= 65535:
                raise InvalidValue(f"port cannot be {port}: give 0 to 65535; 0 lets the system choose.")
        if self.grpc_port and self.grpc_port == self.port:
            raise InvalidValue(f"HTTP and gRPC cannot both be on port {self.port}: give --grpc-port another.")
        if self.workers is not None and not 1 <= self.workers <= 256:
            raise InvalidValue(f"workers cannot be {self.workers}: give 1 to 256.")
        if self.threads is not None and not 0 <= self.threads <= 64:
            raise InvalidValue(f"threads cannot be {self.threads}: give 0 (on the event loop) to 64.")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidValue("a certificate and its key come together: give --tls-certificate and --tls-key.")
        if self.log_format not in get_args(LogFormat):
            raise InvalidValue(f"log format cannot be {self.log_format!r}: give {' or '.join(get_args(LogFormat))}.")
        if self.traces is not None and not self.traces.startswith(("http://", "https://")):
            raise InvalidValue(
                f"traces cannot go to {self.traces!r}: give the address of an OTLP receiver, like"
                " http://127.0.0.1:4318/v1/traces."
            )
        if not 0 <= self.grace_s <= 3600:
            raise InvalidValue(f"grace cannot be {self.grace_s}: give 0 to 3600 seconds.")
        if not 0 <= self.cache_bytes <= _MOST_CACHE_BYTES:
            raise InvalidValue(f"cache cannot be {self.cache_bytes} bytes: give up to 64GB, or 0 for none.")
        if not 0 <= self.poll_ms <= 60_000:
            raise InvalidValue(f"poll cannot be {self.poll_ms}: give 0 to 60000 milliseconds; 0 sleeps at once.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def join_address(host: str, port: int) -> str:
    """Write HOST:PORT, an IPv6 address in brackets."""
    return f"{'[' + host + ']' if ':' in host else host}:{port}"


def write_settings(settings: ServeSettings) -> str:
    """Write settings as JSON, for a worker's command line."""
    return msgspec.json.encode(settings).decode()


def read_settings(text: str) -> ServeSettings:
    """Read what write_settings wrote."""
    settings: Any = msgspec.json.decode(text, type=ServeSettings)
    return settings  # type: ignore[no-any-return]
