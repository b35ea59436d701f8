"""Traces for OpenTelemetry: a span for each request that does work, sent to a collector. Off unless one is named.

The package `opentelemetry` is imported only when traces are on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ollmlx import hookimpl

if TYPE_CHECKING:
    from ollmlx import PluginContext

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class OtelSettings(BaseModel):
    """`[plugins.otel]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = ""
    """The collector's address for OTLP over HTTP, such as `http://localhost:4318`; empty: what OTEL_* variables say."""


@hookimpl
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    register(OtelSettings)


@hookimpl
def register_routes(register: Callable[[str, Any], None], context: PluginContext) -> None:
    own = context.own if isinstance(context.own, OtelSettings) else OtelSettings()
    if not own.endpoint and not any(os.environ.get(name) for name in ENDPOINTS):
        return

    def make(service: Any) -> Any:
        from ollmlx_otel.routes import blueprint

        return blueprint(own.endpoint)

    register("otel", make)
