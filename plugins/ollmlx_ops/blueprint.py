"""The family's Blueprint: probes and metrics."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import TYPE_CHECKING, Any

from quart import Blueprint, Response

from ollmlx.errors import Forbidden
from ollmlx.web import TEXT, WebState, current, describe, json_answer, state_of
from ollmlx_ops.about import SCHEMA, about
from ollmlx_ops.metrics import CONTENT_TYPE, Metrics
from ollmlx_ops.readiness import problems

if TYPE_CHECKING:
    from ollmlx import Service

NOT_READY = 503
STATUS: dict[str, Any] = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}


def blueprint(service: Service) -> Blueprint:
    """The family over a service."""
    made = Blueprint("ops", __name__)
    metrics = Metrics(service.ps)
    service.pool.subscribe(metrics.pool)  # type: ignore[arg-type]  # has the listener's methods; its class is not ours to import
    sites: list[WebState] = []

    @made.record
    def _observe(state: Any) -> None:
        site = state_of(state.app)
        sites.append(site)
        site.observers.append(metrics.answered)
        metrics.in_progress(lambda: site.drain.running)

    @made.get("/livez")
    @describe("Whether the daemon answers at all.", answer=STATUS)
    async def livez() -> Response:
        return json_answer({"status": "ok"})

    @made.get("/readyz")
    @describe("Whether the daemon takes new work, and why not.", answer=STATUS, success=(200, NOT_READY))
    async def readyz() -> Response:
        stopping = sites[0].drain.story()
        found = await asyncio.to_thread(problems, service.settings, stopping=stopping)
        if not found:
            return json_answer({"status": "ready"})
        told = {"status": "not ready", "error": "; ".join(found), "problems": found, "stopping": bool(stopping)}
        response = json_answer(told, NOT_READY)
        response.headers["Retry-After"] = "5"
        return response

    @made.get("/api/daemon")
    @describe("What the daemon knows of itself; told on its own machine, or with a key.", answer=SCHEMA)
    async def daemon() -> Response:
        if not service.settings.security.api_keys and not _is_here(current().client):
            raise Forbidden("this is told on the daemon's own machine only, or with an API key")
        return json_answer(about(service.settings, service.ps()))

    @made.get("/metrics")
    @describe("Figures for Prometheus.", answer={"type": "string"}, content=(TEXT,))
    async def figures() -> Response:
        return Response(metrics.text(), content_type=CONTENT_TYPE)

    return made


def _is_here(peer: str) -> bool:
    """Whether a caller is on this machine; one without an address is."""
    try:
        return peer == "local" or ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False
