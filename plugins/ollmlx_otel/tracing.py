"""Spans of requests: one for the HTTP request and, inside of it, one with the GenAI conventions for the model's work.

Prompts and answers are in no span.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ollmlx import __version__
from ollmlx.protocol import TRACEPARENT
from ollmlx.web import RequestContext

OPERATIONS = {
    "/api/chat": "chat",
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/api/generate": "text_completion",
    "/v1/completions": "text_completion",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
    "/v1/embeddings": "embeddings",
}
"""`gen_ai.operation.name` of the routes that use a model."""
READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that do no work: they have no span."""
CLIENT_ERRORS = range(400, 500)
PATIENCE = 3.0
"""Seconds in which a collector must take some spans, repetitions included. The daemon waits as long at its end."""
TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
HEADER = "traceparent"
Value = str | int | float | tuple[str, ...]


@dataclass(slots=True)
class Spans:
    """The spans of one request."""

    http: Span
    work: Span | None


class Tracing:
    """Begins and ends the spans of one daemon. Its methods are called on the event loop and return at once."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("ollmlx", __version__)
        self._context = TraceContextTextMapPropagator()
        self._open: dict[RequestContext, Spans] = {}

    def begin(self, request: RequestContext) -> None:
        """Begin the spans, inside of the client's trace if it names one. The runner gets the innermost of them."""
        if request.method in READING:
            return
        parent = self._context.extract({HEADER: request.traceparent})
        http = self._tracer.start_span(f"{request.method} {request.path}", parent, SpanKind.SERVER)
        inside = set_span_in_context(http, parent)
        operation = OPERATIONS.get(request.path)
        work = self._tracer.start_span(operation, inside, SpanKind.INTERNAL) if operation else None
        self._open[request] = Spans(http, work)
        carrier: dict[str, str] = {}
        self._context.inject(carrier, set_span_in_context(work, inside) if work else inside)
        TRACEPARENT.set(carrier.get(HEADER, ""))

    def end(self, request: RequestContext) -> None:
        """End the spans with what the request came to."""
        spans = self._open.pop(request, None)
        if spans is None:
            return
        if spans.work is not None:
            operation = OPERATIONS[request.path]
            spans.work.update_name(f"{operation} {request.model}".strip())
            _finish(spans.work, request, genai_attributes(operation, request))
        if request.route:
            spans.http.update_name(f"{request.method} {request.route}")
        _finish(spans.http, request, http_attributes(request))


def http_attributes(request: RequestContext) -> dict[str, Value]:
    """Return the attributes of the HTTP request."""
    found: dict[str, Value] = {
        "http.request.method": request.method,
        "http.route": request.route,
        "http.response.status_code": request.status,
        "url.path": request.path,
        "enduser.id": request.client,
        "ollmlx.request_id": request.id,
    }
    return {name: value for name, value in found.items() if value != ""}


def genai_attributes(operation: str, request: RequestContext) -> dict[str, Value]:
    """Return the attributes of the model's work, by the names of the GenAI conventions; times are in seconds."""
    done, admitted = request.done, request.admitted
    found: dict[str, Value | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "ollmlx",
        "gen_ai.request.model": request.model or None,
        "gen_ai.response.model": request.model if done or request.embedded is not None else None,
        "gen_ai.usage.input_tokens": done.prompt_tokens if done else request.embedded,
        "gen_ai.usage.output_tokens": done.generated_tokens if done else None,
        "gen_ai.usage.cache_read.input_tokens": done.cached_tokens if done else None,
        "gen_ai.response.finish_reasons": (done.reason,) if done else None,
        "gen_ai.response.time_to_first_chunk": request.first_ns / 1e9 if request.first_ns else None,
        "ollmlx.queue_seconds": admitted.queue_ns / 1e9 if admitted else None,
        "ollmlx.load_seconds": admitted.load_ns / 1e9 if admitted else None,
        "ollmlx.prefill_seconds": done.prefill_ns / 1e9 if done else None,
        "ollmlx.decode_seconds": done.decode_ns / 1e9 if done else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def exporting_provider(endpoint: str) -> TracerProvider:
    """Return a provider that sends spans to a collector, in a thread; at the end of the process it sends the rest."""
    name = os.environ.get("OTEL_SERVICE_NAME") or "ollmlx"
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name, SERVICE_VERSION: __version__}))
    timeout = None if any(os.environ.get(variable) for variable in TIMEOUTS) else PATIENCE
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None, timeout=timeout)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _finish(span: Span, request: RequestContext, attributes: dict[str, Value]) -> None:
    span.set_attributes(attributes)
    if request.error:
        span.set_attribute("error.type", request.error)
    if request.error and request.status not in CLIENT_ERRORS:  # by the conventions, those are no errors of a server
        span.set_status(Status(StatusCode.ERROR, request.code or request.error))
    span.end()
