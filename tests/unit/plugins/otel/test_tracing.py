"""Traces: a span for each request that does work, by the GenAI conventions, inside of the client's trace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from ollmlx.errors import RunnerFailed
from ollmlx.plugin.loader import load_plugins
from ollmlx.protocol import TRACEPARENT
from ollmlx.settings import Settings
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.types import Done, Event, Prefill, Text
from ollmlx.web import state_of
from ollmlx_ollama_api.routes import blueprint as ollama
from ollmlx_openai_api.routes import blueprint as openai
from ollmlx_otel import ENDPOINTS, OtelSettings
from ollmlx_otel.routes import MISSING, blueprint
from ollmlx_otel.tracing import Tracing

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "my secret"}], "stream": False}


class TracedService(FakeService):
    """Notes the trace context that a runner would get."""

    seen: str = ""

    async def generate(self, *args: Any, **kwargs: Any) -> AsyncIterator[Event]:
        self.seen = TRACEPARENT.get()
        async for event in super().generate(*args, **kwargs):
            yield event


@pytest.fixture
def service() -> TracedService:
    service = TracedService(models=[installed("tiny")])
    service.outcomes = [
        Prefill(done=7, total=7, cached=4),
        Text(text="hello"),
        Done(prompt_tokens=7, cached_tokens=4, generated_tokens=1, prefill_ns=5 * 10**8, decode_ns=10**9),
    ]
    return service


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def client(service: TracedService, exporter: InMemorySpanExporter) -> Any:
    app = web_app(service, ollama, openai)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing = Tracing(provider)
    state_of(app).beginners.append(tracing.begin)
    state_of(app).observers.append(tracing.end)
    return app.test_client()


def named(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_a_request_and_its_models_work_are_spans_of_the_clients_trace(
    client: Any, exporter: InMemorySpanExporter, service: TracedService, path: str
) -> None:
    await (await client.post(path, json=CHAT, headers=SENT)).get_data()
    spans = named(exporter)
    http, work = spans[f"POST {path}"], spans["chat tiny"]
    assert (http.kind, work.kind) == (SpanKind.SERVER, SpanKind.INTERNAL)
    assert http.parent is not None
    assert work.parent is not None
    assert (f"{http.parent.trace_id:032x}", f"{http.parent.span_id:016x}") == (TRACE, SPAN)
    assert work.parent.span_id == http.context.span_id
    assert service.seen == f"00-{TRACE}-{work.context.span_id:016x}-01"
    assert dict(http.attributes or {}).items() >= {
        "http.request.method": "POST", "http.route": path, "http.response.status_code": 200, "enduser.id": "local",
    }.items()  # fmt: skip
    assert dict(work.attributes or {}).items() >= {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "ollmlx", "gen_ai.request.model": "tiny",
        "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 1, "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.response.finish_reasons": ("stop",), "ollmlx.prefill_seconds": 0.5, "ollmlx.decode_seconds": 1.0,
    }.items()  # fmt: skip
    assert "secret" not in "".join(span.to_json() for span in spans.values())


async def test_a_failure_is_an_error_of_its_span_and_a_clients_mistake_is_not(
    client: Any, exporter: InMemorySpanExporter, service: TracedService
) -> None:
    service.outcomes = [RunnerFailed("it crashed", code="RUN001")]
    await client.post("/api/chat", json=CHAT)
    await client.post("/api/chat", json=CHAT | {"model": "absent"})
    failed, missing = [span for span in exporter.get_finished_spans() if span.name.startswith("POST")]
    assert (failed.status.is_ok, failed.status.description) == (False, "RUN001")
    assert missing.status.is_unset
    assert [dict(span.attributes or {})["error.type"] for span in (failed, missing)] == ["runner_failed", "not_found"]


@pytest.mark.parametrize("sent", ["", "00-zz-b7ad6b7169203331-01", "x" * 300])
async def test_a_request_without_a_usable_trace_begins_one(
    client: Any, exporter: InMemorySpanExporter, service: TracedService, sent: str
) -> None:
    await client.post("/api/chat", json=CHAT, headers={"traceparent": sent})
    http = named(exporter)["POST /api/chat"]
    assert http.parent is None
    assert f"{http.context.trace_id:032x}" in service.seen


async def test_reading_requests_and_refused_ones_have_no_span(client: Any, exporter: InMemorySpanExporter) -> None:
    await client.get("/api/tags")
    await client.post("/api/chat", json=CHAT, headers={"Origin": "https://evil.example"})
    assert exporter.get_finished_spans() == ()


async def test_without_a_collector_the_clients_trace_is_passed_on(service: TracedService) -> None:
    await web_app(service, ollama).test_client().post("/api/chat", json=CHAT, headers=SENT)
    assert service.seen == SENT["traceparent"]


@pytest.mark.parametrize(
    ("variables", "own", "on"),
    [
        ({}, {}, False),
        ({ENDPOINTS[1]: "http://127.0.0.1:4318"}, {}, True),
        ({}, {"endpoint": "http://127.0.0.1:4318"}, True),
    ],
)
def test_traces_are_off_unless_a_collector_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], own: dict[str, str], on: bool
) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings.model_validate({"plugins": {"otel": own}})
    assert ("otel" in load_plugins(settings).registry.routes.names()) is on
    assert OtelSettings.model_validate(own).endpoint == own.get("endpoint", "")


def test_without_the_extra_the_log_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ollmlx_otel.routes.find_spec", lambda name: None)
    blueprint("http://127.0.0.1:4318")
    assert MISSING in caplog.text
