"""The family's Blueprint: health endpoints, metrics, and the description of the daemon that the doctor reads."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import platform
from collections.abc import Sequence
from typing import Any, cast

from quart import Blueprint, Response, current_app, request

from ollmlx import Service, Settings, __version__
from ollmlx.errors import Forbidden
from ollmlx.protocol import PROTOCOL_VERSION
from ollmlx.types import RunnerInfo
from ollmlx.web import (
    BOOLEAN,
    INTEGER,
    NDJSON,
    OBJECT,
    STRING,
    TEXT,
    current,
    describe,
    json_answer,
    listing,
    record,
    state_of,
)
from ollmlx_ops.log import FILE, last_lines
from ollmlx_ops.metrics import CONTENT_TYPE, Metrics

NOT_READY = 503
LINES = 300
_SAID = {"state", "backend", "pid", "restarts", "reserved", "memory", "last_words", "missed"}
"""The fields of a runner that keep their names in the answer."""
STATUS = record({"status": STRING})
DAEMON = record(
    {
        "version": STRING,
        "pid": INTEGER,
        "python": STRING,
        "protocol": INTEGER,
        "address": STRING,
        "models_folder": STRING,
        "state_folder": STRING,
        "runners": listing(OBJECT),
    },
    api_keys=BOOLEAN,
    allow_no_auth=BOOLEAN,
)


def blueprint(service: Service) -> Blueprint:
    made = Blueprint("ops", __name__)
    metrics = Metrics(service.ps)
    service.pool.subscribe(metrics.pool)  # type: ignore[arg-type]  # PoolObserver is not exported to plugins

    @made.record
    def _observe(setup: Any) -> None:
        state = state_of(setup.app)
        state.observers.append(metrics.count)
        metrics.running.set_function(lambda: state.drain.running)

    @made.get("/livez")
    @describe("Check that the daemon answers.", answer=STATUS)
    async def livez() -> Response:
        return json_answer({"status": "ok"})

    @made.get("/readyz")
    @describe(
        "Check that the daemon takes new work; a 503 says why it does not.", answer=STATUS, success=(200, NOT_READY)
    )
    async def readyz() -> Response:
        stopping = state_of(cast(Any, current_app)).drain.status()
        found = await asyncio.to_thread(problems, service.settings, stopping=stopping)
        if not found:
            return json_answer({"status": "ready"})
        body = {"status": "not ready", "error": "; ".join(found), "problems": found, "stopping": bool(stopping)}
        response = json_answer(body, NOT_READY)
        response.headers["Retry-After"] = "5"
        return response

    @made.get("/api/daemon")
    @describe("The daemon and its runners; only for its own machine, or with an API key.", answer=DAEMON)
    async def daemon() -> Response:
        _only_for_operators(service.settings)
        return json_answer(describe_daemon(service.settings, service.ps()))

    @made.get("/api/daemon/log")
    @describe("The end of the daemon's log, a JSON object a line; `?contains=` selects lines.", content=(NDJSON,))
    async def log() -> Response:
        _only_for_operators(service.settings)
        if service.settings.logging.prompts:
            raise Forbidden(
                "the log has prompts: `ollmlx logs` shows it", hint="[logging] prompts = false permits it here"
            )
        file = service.settings.state_folder / FILE
        lines = await asyncio.to_thread(last_lines, file, LINES, request.args.get("contains", ""))
        return Response("".join(f"{line}\n" for line in lines), content_type=NDJSON)

    @made.get("/metrics")
    @describe("Figures for Prometheus.", answer={"type": "string"}, content=(TEXT,))
    async def figures() -> Response:
        return Response(metrics.text(), content_type=CONTENT_TYPE)

    return made


def problems(settings: Settings, *, stopping: str = "") -> list[str]:
    """Return why the daemon cannot take new work, one sentence for each reason; nothing when it is ready.

    stopping: why the daemon refuses new work itself. A model that loads, fails or is absent is no reason.
    Reads the file system: call it in a thread.
    """
    found = [stopping] if stopping else []
    folder = settings.models_folder
    if folder.exists() and not folder.is_dir():
        found.append("the models folder is not a folder")
    elif folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
        found.append("the models folder cannot be read")
    elif not folder.exists() and not _can_be_created(settings):
        found.append("the models folder does not exist and cannot be created")
    return found


def describe_daemon(settings: Settings, runners: Sequence[RunnerInfo]) -> dict[str, Any]:
    """Return version, process, address, folders, and every runner; failed runners are listed for a while."""
    return {
        "version": __version__,
        "pid": os.getpid(),
        "python": platform.python_version(),
        "protocol": PROTOCOL_VERSION,
        "address": settings.server.host,
        "api_keys": settings.security.has_keys,
        "allow_no_auth": settings.security.allow_no_auth,
        "models_folder": str(settings.models_folder),
        "state_folder": str(settings.state_folder),
        "runners": [
            {
                "name": runner.model.name.short,
                "code": runner.last_code,
                "error": runner.last_error,
                **runner.model_dump(mode="json", include=_SAID),
            }
            for runner in runners
        ],
    }


def _only_for_operators(settings: Settings) -> None:
    """Raise Forbidden for a client of another machine without an API key."""
    if not settings.security.has_keys and not _is_local(current().client):
        raise Forbidden("this route is only for the daemon's own machine, or with an API key")


def _can_be_created(settings: Settings) -> bool:
    parent = next((parent for parent in settings.models_folder.parents if parent.exists()), None)
    return parent is not None and parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)


def _is_local(peer: str) -> bool:
    """Return True for a client on this machine; a client without an address is one."""
    try:
        return peer == "local" or ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False
