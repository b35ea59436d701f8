"""The family's Blueprint: health endpoints, metrics, and the description of the daemon that the doctor reads."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import platform
import re
from collections.abc import Sequence
from typing import Any, cast

from quart import Blueprint, Response, current_app, request

from ollmlx import ModelName, Service, Settings, __version__
from ollmlx.errors import Forbidden, NotFound
from ollmlx.protocol import PROTOCOL_VERSION
from ollmlx.types import RunnerInfo
from ollmlx.web import (
    BOOLEAN,
    INTEGER,
    NDJSON,
    NUMBER,
    OBJECT,
    STRING,
    TEXT,
    current,
    describe,
    json_answer,
    listing,
    permit,
    permits,
    record,
    state_of,
)
from ollmlx_ops.activity import FILE, Activity, in_flight, last_lines
from ollmlx_ops.doctor import DoctorRuns
from ollmlx_ops.metrics import CONTENT_TYPE, Metrics

ZIP = "application/zip"
BYTES = {"type": "string", "format": "binary"}
MARKDOWN = "text/markdown"
CODE = re.compile(r"[A-Z]{3}[0-9]{3}")
NOT_READY = 503
FORWARDED = ("Forwarded", "X-Forwarded-For")
"""Headers of proxies and tunnels, which connect from this machine for clients that may be anywhere."""
LINES = 300
_SAID = {
    *("state", "backend", "pid", "active", "started_at", "restarts", "reserved"),
    *("memory", "last_words", "notes", "missed"),
}
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
        "budget": INTEGER,
    },
    api_keys=BOOLEAN,
    allow_no_auth=BOOLEAN,
)

SETTING = record({"key": STRING, "origin": STRING, "source": STRING})
SETTINGS = record({"settings": listing(SETTING), "files": listing(STRING), "restart": listing(STRING)})
HISTORY = record({"every": NUMBER, "time": listing(NUMBER), "tokens_per_second": listing(NUMBER)})


def blueprint(service: Service) -> Blueprint:
    made = Blueprint("ops", __name__)
    metrics = Metrics(service.ps)
    service.pool.subscribe(metrics.pool)  # type: ignore[arg-type]  # PoolObserver is not exported to plugins
    _add_activity(made, service)
    _add_administration(made, service)

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
        return json_answer(describe_daemon(service.settings, service.ps()) | {"budget": service.pool.budget})

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


def _add_activity(made: Blueprint, service: Service) -> None:
    activity = Activity(lambda: len(service.pool.queue()), lambda: sum(one.memory for one in service.ps()))

    @made.record
    def _observe(setup: Any) -> None:
        state = state_of(setup.app)
        activity.running = lambda: state.drain.requests
        state.observers.append(activity.count)
        state.chores.append(("samples", activity.keep))

    @made.get("/api/daemon/requests")
    @describe("The requests that use a model now; for the same clients.", answer=record({"requests": listing(OBJECT)}))
    async def requests() -> Response:
        _only_for_operators(service.settings)
        served = [one for one in activity.running() if one.counted and one.model and not one.act]
        shown = [in_flight(one) for one in served if permits(ModelName.parse(one.model))]
        return json_answer({"requests": shown})

    @made.get("/api/daemon/history")
    @describe("Samples of the last hour, by column; for the same clients.", answer=HISTORY)
    async def history() -> Response:
        _only_for_operators(service.settings)
        return json_answer(activity.history())

    @made.get("/api/daemon/catalogue")
    @describe("The short names of models that can be pulled.", answer=record({"models": listing(STRING)}))
    async def catalogue() -> Response:
        return json_answer({"models": list(service.known_names())})


def _add_administration(made: Blueprint, service: Service) -> None:
    runs = DoctorRuns(service.pool.guarded)

    @made.record
    def _take_options(setup: Any) -> None:
        runs.options = state_of(setup.app).app.options

    @made.get("/api/daemon/settings")
    @describe("Every setting with its origin, secrets masked; for the same clients.", answer=SETTINGS)
    async def settings() -> Response:
        _only_for_administrators(service.settings)
        app = state_of(cast(Any, current_app)).app
        files = [str(file) for file in app.loaded.files]
        return json_answer({"settings": app.settings_told(), "files": files, "restart": app.waiting})

    @made.post("/api/daemon/doctor")
    @describe("Run the doctor and return its report; one at a time, for the same clients.", answer=OBJECT)
    async def doctor() -> Response:
        _only_for_administrators(service.settings)
        permit("", "doctor")
        return Response(await runs.report(_key()), content_type="application/json")

    @made.get("/api/daemon/doctor/<code>")
    @describe("The page of a code of the doctor, in Markdown.", answer=STRING, content=(MARKDOWN,))
    async def page(code: str) -> Response:
        _only_for_administrators(service.settings)
        if not CODE.fullmatch(code) or (text := await runs.page(code)) is None:
            raise NotFound(f"there is no code {code[:20]!r}", hint="ollmlx doctor --list")
        return Response(text, content_type=f"{MARKDOWN}; charset=utf-8")

    @made.post("/api/daemon/doctor/bundle")
    @describe("A report to send to a person who helps, without secrets and prompts.", answer=BYTES, content=(ZIP,))
    async def bundle() -> Response:
        _only_for_administrators(service.settings)
        permit("", "bundle")
        return Response(await runs.bundle(_key()), content_type=ZIP)


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
    """Raise Forbidden for a client of another machine without an API key, a proxy's or tunnel's clients included."""
    forwarded = any(name in request.headers for name in FORWARDED)
    if not settings.security.has_keys and (forwarded or not _is_local(current().client)):
        raise Forbidden("this route is only for the daemon's own machine, or with an API key")


def _only_for_administrators(settings: Settings) -> None:
    """Raise Forbidden as `_only_for_operators` does, and for a key that may use some models only."""
    _only_for_operators(settings)
    key = settings.security.keys.get(current().client)
    if key is not None and key.models:
        raise Forbidden("an API key for some models reads no settings and runs no doctor")


def _key() -> str:
    """Return the API key that the request was sent with."""
    return request.headers.get("X-API-Key", "") or request.headers.get("Authorization", "").partition(" ")[2]


def _can_be_created(settings: Settings) -> bool:
    parent = next((parent for parent in settings.models_folder.parents if parent.exists()), None)
    return parent is not None and parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)


def _is_local(peer: str) -> bool:
    """Return True for a client on this machine; a client without an address is one."""
    try:
        return peer == "local" or ipaddress.ip_address(peer).is_loopback
    except ValueError:
        return False
