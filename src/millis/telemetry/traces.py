"""Traces of requests for OpenTelemetry, a span for the request and one for each stage.

Border: times and names in, spans out, never a text; the one file that imports opentelemetry (the extra `traces`).
Spans are made when the answer is out, from the times that were measured anyway.
Limits: stages are laid one behind the other in the order of STAGES; of a request in several windows the turns of others
between them are in its queue.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from millis.errors import MissingExtra
from millis.telemetry.metrics import STAGES

_EXPORT_S = 5.0


class Traces:
    """Makes spans and hands them on.

    Args:
        url: of an OTLP receiver over HTTP, like http://127.0.0.1:4318/v1/traces.
        exporter: instead of it, one of OpenTelemetry's own; spans reach it at once.
    Raises:
        MissingExtra: opentelemetry is not installed.
    """

    def __init__(self, url: str | None = None, *, exporter: Any = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise MissingExtra("--traces needs OpenTelemetry: pip install 'millis[traces]'.") from error
        processor: Any
        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            processor = BatchSpanProcessor(
                OTLPSpanExporter(endpoint=url, timeout=_EXPORT_S), schedule_delay_millis=1000
            )
        else:
            processor = SimpleSpanProcessor(exporter)
        resource = Resource.create({"service.name": "millis", "service.version": version("millis")})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("millis.serving")
        self._propagator = TraceContextTextMapPropagator()
        self._trace = trace

    def record(
        self, *, route: str, headers: Iterable[tuple[bytes, bytes]], began_ns: int, stages_ns: Sequence[int],
        attributes: Mapping[str, str | int | float], status: int = 200,
    ) -> None:  # fmt: skip
        """Make the spans of one answer, under the span that its headers name.

        Args:
            began_ns: of perf_counter_ns, when the request was read.
            stages_ns: in the order of STAGES; empty for a request that was refused.
        """
        to_epoch_ns = time.time_ns() - time.perf_counter_ns()
        at_ns = began_ns + to_epoch_ns
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name in _CONTEXT}
        span = self._tracer.start_span(
            f"POST {route}", context=self._propagator.extract(carrier), kind=self._trace.SpanKind.SERVER,
            start_time=at_ns, attributes={"http.route": route, "http.response.status_code": status, **attributes},
        )  # fmt: skip
        if span.is_recording():
            inside = self._trace.set_span_in_context(span)
            for stage, ns in zip(STAGES, stages_ns, strict=False):
                self._tracer.start_span(stage, context=inside, start_time=at_ns).end(end_time=at_ns + ns)
                at_ns += ns
        if status >= 500:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(end_time=at_ns if stages_ns else time.time_ns())

    def close(self) -> None:
        """Hand on what waits."""
        self._provider.shutdown()


_CONTEXT = (b"traceparent", b"tracestate")
