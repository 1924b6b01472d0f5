"""`millis serve`: answer over HTTP."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millis.cli.output import Json, write_result

if TYPE_CHECKING:
    from millis.serving.supervisor import Supervisor


def command(
    bundles: Annotated[list[Path], typer.Argument(help="NAME.millis, one or more.")],
    index: Annotated[
        list[Path] | None, typer.Option(help="An index to search at /v1/search, made by one of the models; repeat it.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you name another.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 lets the system choose.")] = 8000,
    grpc_port: Annotated[
        int | None,
        typer.Option(help="Speak the Open Inference Protocol over gRPC on this port too; needs millis[grpc]."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; the bundle's own layout when missing.")] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Inference threads in each process, 0 for the event loop; the bundle's when missing."),
    ] = None,
    standby: Annotated[
        bool,
        typer.Option("--standby", help="Keep a worker more in memory, that takes the place of one that dies at once."),
    ] = False,
    grace: Annotated[float, typer.Option(help="Seconds that a stop waits for requests it took.")] = 10.0,
    fallback: Annotated[
        bool, typer.Option(help="Load the ladder's faster rungs too and answer by them when time is short.")
    ] = True,
    poll: Annotated[
        float, typer.Option(help="Milliseconds to look for the next request before sleeping; 0 saves power.")
    ] = 10.0,
    keep_warm: Annotated[
        bool, typer.Option("--keep-warm", help="Run the model when idle: fast answers to rare requests, a busy core.")
    ] = False,
    keys: Annotated[
        Path | None, typer.Option(help="File of API keys (`millis keys create`); without it only loopback is served.")
    ] = None,
    audit: Annotated[Path | None, typer.Option(help="Folder for the audit log (`millis audit verify`).")] = None,
    audit_seals: Annotated[
        Path | None, typer.Option(help="Folder for what seals the audit log, where who can write the log cannot.")
    ] = None,
    audit_file: Annotated[str, typer.Option(help="Size at which another file of the audit log is begun.")] = "64MB",
    tls_certificate: Annotated[
        Path | None, typer.Option(help="PEM file; with --tls-key the server speaks https, and follows both files.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")] = None,
    models_from: Annotated[
        list[Path] | None, typer.Option(help="Folder below which bundles may be loaded over HTTP; needs --keys.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="File that keeps what is served, for the next start to serve it; needs --keys.")
    ] = None,
    log_format: Annotated[
        str, typer.Option(help="text, or json: a line of JSON for each event and each request, never its text.")
    ] = "text",
    traces: Annotated[
        str | None, typer.Option(help="Send OpenTelemetry traces to this OTLP address (http://HOST:4318/v1/traces).")
    ] = None,
    cache: Annotated[
        str, typer.Option(help="Keep answers for texts that come again, like 64MB, in memory; 0 keeps none.")
    ] = "0",
    max_body_bytes: Annotated[int, typer.Option(help="Largest request body.")] = 1_000_000,
    max_texts: Annotated[int, typer.Option(help="Most texts in one request.")] = 256,
    max_characters: Annotated[int, typer.Option(help="Most characters in one request.")] = 50_000,
    max_tokens: Annotated[int, typer.Option(help="Most tokens in one request, as its windows have them.")] = 100_000,
    max_head_bytes: Annotated[int, typer.Option(help="Largest head of a request: its line and headers.")] = 16_384,
    max_connections: Annotated[int, typer.Option(help="Most open connections of a worker.")] = 10_000,
    max_messages_per_s: Annotated[float, typer.Option(help="Most messages a second on one /v1/live.")] = 30.0,
    max_silent_s: Annotated[
        float, typer.Option(help="Seconds after which a connection to /v1/live is closed on which nothing happens.")
    ] = 300.0,
    as_json: Json = False,
) -> None:
    """Answer over HTTP until Ctrl-C or SIGTERM; what was taken is finished first.

    Prints where it answers once every worker is warm. Without --keys anybody on this machine may ask, and nobody else.
    """
    from millis.serving.settings import Limits, ServeSettings
    from millis.serving.supervisor import Supervisor
    from millis.units import read_bytes

    settings = ServeSettings(
        bundles=tuple(map(str, bundles)), indexes=tuple(map(str, index or ())), host=host, port=port,
        grpc_port=grpc_port, workers=workers, threads=threads, standby=standby, grace_s=grace,
        fallback=fallback, poll_ms=poll, keep_warm=keep_warm,
        keys=None if keys is None else str(keys), audit=None if audit is None else str(audit),
        audit_seals=None if audit_seals is None else str(audit_seals),
        audit_file_bytes=read_bytes(audit_file, name="audit-file"),
        tls_certificate=None if tls_certificate is None else str(tls_certificate),
        tls_key=None if tls_key is None else str(tls_key),
        log_format=log_format, traces=traces,  # type: ignore[arg-type]  # settings check it
        models_from=tuple(map(str, models_from or ())), state=None if state is None else str(state),
        cache_bytes=read_bytes(cache, name="cache"),
        limits=Limits(
            body_bytes=max_body_bytes, texts=max_texts, characters=max_characters, tokens=max_tokens,
            head_bytes=max_head_bytes, connections=max_connections,
            messages_per_s=max_messages_per_s, silent_s=max_silent_s,
        ),
    )  # fmt: skip
    with Supervisor(settings) as server:
        _say_ready(server, is_json=as_json)
        server.watch()


def _say_ready(server: "Supervisor", *, is_json: bool) -> None:
    names = [bundle.name for bundle in server.bundles]
    tasks = sorted({bundle.manifest.task for bundle in server.bundles})
    first = "chat/completions" if tasks[0] == "chat" else tasks[0]
    write_result(
        {"url": server.url, "grpc": server.grpc_address, "models": names, "workers": server.pids},
        lines=[
            f"ready: {server.url} serves {', '.join(names)} with {server.n_workers} worker(s)",
            *([f"  and {server.grpc_address} over gRPC"] if server.grpc_address else []),
            f"  try {server.url}/ in a browser, or POST {server.url}/v1/{first}; Ctrl-C stops",
        ],
        is_json=is_json,
    )
