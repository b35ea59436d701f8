"""Traces of a real daemon, received by a collector that speaks OTLP, and named in the runner's log."""

from __future__ import annotations

from contextlib import closing

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.conftest import StartDaemon
from tests.servers.serving import Answer, Served

from ollmlx.testing import wait_until

pytestmark = pytest.mark.e2e
PROTOBUF = {"content-type": "application/x-protobuf"}
TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_a_collector_gets_the_spans_of_a_stopped_daemon_and_the_runner_knows_the_trace(daemon: StartDaemon) -> None:
    with closing(Served(lambda asked: Answer(200, headers=PROTOBUF))) as collector:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
        server = daemon(fakes={"parrot": {"tokens": 3}}, env=endpoint)
        body = {"model": "parrot", "prompt": "a", "stream": False}
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        assert server.post("/api/generate", body, headers=headers).status_code == 200
        wait_until(lambda: f"generate: begun, trace 00-{TRACE}-" in server.log_text)
        assert server.stop() == 0
        sent = [ExportTraceServiceRequest.FromString(one.body) for one in collector.asked if one.path == "/v1/traces"]
    spans = [span for one in sent for part in one.resource_spans for scope in part.scope_spans for span in scope.spans]
    assert {span.name for span in spans} == {"POST /api/generate", "text_completion parrot"}
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    resource = {item.key: item.value.string_value for item in sent[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "ollmlx"


def test_a_collector_that_is_gone_fails_no_request_and_no_stop(daemon: StartDaemon, free_port: int) -> None:
    nowhere = f"http://127.0.0.1:{free_port}"
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": nowhere, "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    server = daemon(fakes={"parrot": {"tokens": 3}}, env=endpoint)
    assert server.post("/api/generate", {"model": "parrot", "prompt": "a", "stream": False}).status_code == 200
    assert server.stop() == 0
