"""From what went wrong to an HTTP answer. The only place that knows statuses; each family brings its own body shape."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError
from quart import Response

from ollmlx.errors import InvalidRequest, OllmlxError
from ollmlx.web.context import CLIENT_GONE, CURRENT

if TYPE_CHECKING:
    from quart import Blueprint
    from werkzeug.exceptions import HTTPException

logger = logging.getLogger(__name__)

STATUS: dict[str, int] = {
    "internal": 500,
    "invalid": 400,
    "unsupported": 400,
    "context_exceeded": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "body_timeout": 408,
    "conflict": 409,
    "too_large": 413,
    "unsupported_encoding": 415,
    "cancelled": CLIENT_GONE,
    "busy": 503,
    "runner_unavailable": 503,
    "timeout": 504,
    "out_of_memory": 500,  # lasting: repeating the request cannot make the model smaller
    "runner_failed": 500,
    "storage": 500,
    "upstream": 500,
    "config": 500,
    "plugin": 500,
}
RETRIABLE = 503  # of an error that says when trying again can help
LASTING = frozenset({"out_of_memory", "storage", "config", "plugin"})
"""The daemon's own failures that are the same at the next try."""
JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way to a client: everything a body shape may want to show."""

    status: int
    kind: str
    message: str
    code: str | None = None
    hint: str | None = None
    retry_after: float | None = None
    request_id: str = ""


Shape = Callable[[Failure], dict[str, Any]]
"""Makes a family's error body."""


def plain_shape(failure: Failure) -> dict[str, Any]:
    """Ollama's shape, and the daemon's own: `error` is the sentence; `code` and `hint` are there when known."""
    extra = {"code": failure.code, "hint": failure.hint}
    return {"error": failure.message, **{key: value for key, value in extra.items() if value}}


class Shapes:
    """Which error shape belongs to which paths; the longest declared prefix decides."""

    def __init__(self) -> None:
        self._shapes: list[tuple[str, Shape]] = []

    def add(self, prefix: str, shape: Shape) -> None:
        self._shapes.append((prefix, shape))
        self._shapes.sort(key=lambda item: -len(item[0]))

    def of(self, path: str) -> Shape:
        return next((shape for prefix, shape in self._shapes if path.startswith(prefix)), plain_shape)


def declare_errors(blueprint: Blueprint, shape: Shape, *prefixes: str) -> None:
    """Give a route family's paths their error shape, also for errors that happen before a route is chosen."""

    def add(state: Any) -> None:
        for prefix in prefixes:
            state.app.extensions["ollmlx"].shapes.add(prefix, shape)

    blueprint.record(add)


def failure(error: BaseException) -> Failure:
    """What a client is told of an exception. An unexpected one is logged with its traceback, and told without it."""
    exchange = CURRENT.get()
    request_id = exchange.id if exchange else ""
    if isinstance(error, ValidationError):
        error = InvalidRequest(explain(error))
    if isinstance(error, OllmlxError):
        status = STATUS[error.kind]
        if error.kind == "out_of_memory" and error.retry_after is not None:
            status = RETRIABLE
        found = Failure(status, error.kind, error.message, error.code, error.hint, error.retry_after, request_id)
    else:
        logger.error("unexpected error while answering", exc_info=error)
        found = Failure(500, "internal", f"internal error (request {request_id})", request_id=request_id)
    if exchange is not None:
        exchange.error, exchange.code = found.kind, found.code or ""
    return found


def http_failure(error: HTTPException) -> Failure:
    """What a client is told of an error of the web framework (a body too large, an upgrade refused)."""
    status = error.code or 500
    kind = next((kind for kind, its in STATUS.items() if its == status), "invalid")
    return failure_of_status(status, kind, _PHRASES.get(status) or HTTPStatus(status).phrase.lower())


def failure_of_status(status: int, kind: str, message: str) -> Failure:
    """A failure that is no OllmlxError."""
    exchange = CURRENT.get()
    if exchange is not None:
        exchange.error = kind
    return Failure(status, kind, message, request_id=exchange.id if exchange else "")


_PHRASES = {413: "request body too large", 408: "the request body did not arrive in time"}


def answer(found: Failure, shape: Shape) -> Response:
    """The response of a failure."""
    response = Response(orjson.dumps(shape(found)), status=found.status, content_type=JSON)
    for name, value in failure_headers(found):
        response.headers[name.decode()] = value.decode()
    return response


def failure_headers(found: Failure) -> list[tuple[bytes, bytes]]:
    """The headers that belong to a failure, besides its body's type."""
    for_ever = found.retry_after is not None and math.isinf(found.retry_after)
    if (found.kind in LASTING and found.status != RETRIABLE) or for_ever:
        return [(b"x-should-retry", b"false")]  # OpenAI's and Anthropic's clients repeat any other 5xx
    if found.status == RETRIABLE:
        return [(b"retry-after", str(max(1, math.ceil(found.retry_after or 1))).encode())]
    if found.status == STATUS["unauthorized"]:
        return [(b"www-authenticate", b"Bearer")]
    return []


def explain(error: ValidationError) -> str:
    """The first fault of a body, in one line: `messages.0.role: Input should be 'system', …`."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    message = str(fault["msg"]).removeprefix("Value error, ")
    for ours, jsons in _JSONS_WORDS.items():
        message = message.replace(ours, jsons)
    return f"invalid request: {where}: {message}" if where else f"invalid request: {message}"


_JSONS_WORDS = {"Tuple should": "Array should", "valid tuple": "valid array", "valid dictionary": "valid object"}
