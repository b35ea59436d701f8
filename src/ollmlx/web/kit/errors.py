"""From an exception to an HTTP response.

Each kind of error has its HTTP status. Each route family brings the shape of its own error bodies.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from quart import Blueprint
from werkzeug.exceptions import HTTPException

from ollmlx.errors import STATUS, ContextExceeded, InvalidRequest, OllmlxError
from ollmlx.web.context import CURRENT

logger = logging.getLogger(__name__)

RETRIABLE = 503
PATIENCE = 60
"""Seconds for which clients hold a request back by themselves. After a longer wait, a person asks again."""
LASTING = frozenset({"out_of_memory", "storage", "config", "plugin"})
"""Kinds of errors that the same request would meet again."""
JSON = "application/json"
NO_ROUTE = {404: "404 page not found", 405: "405 method not allowed"}
"""Messages of the web framework's errors, as Ollama's router words them."""
_JSON_TERMS = {"Tuple should": "Array should", "valid tuple": "valid array", "valid dictionary": "valid object"}
"""Pydantic's terms, and JSON's."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An error on its way to a client, with everything that an error body can show."""

    status: int
    kind: str
    message: str
    code: str | None = None
    hint: str | None = None
    retry_after: float | None = None
    """Seconds after which a repeated request may succeed."""
    request_id: str = ""
    excess: tuple[int, int] | None = None
    """Of a prompt that is too long: its tokens, and the most that fit."""


Shape = Callable[[Failure], dict[str, Any]]
"""Makes the error body of a route family."""


def plain_shape(failure: Failure) -> dict[str, Any]:
    """Return an error body in Ollama's shape: the message as `error`, and `code` and `hint` if there are any."""
    extra = {"code": failure.code, "hint": failure.hint}
    return {"error": failure.message, **{key: value for key, value in extra.items() if value}}


def declare_errors(blueprint: Blueprint, shape: Shape, *prefixes: str) -> None:
    """Use this shape for errors on paths with these prefixes, also for errors before a route is chosen."""

    def add(setup: Any) -> None:
        setup.app.extensions["ollmlx"].shapes.update(dict.fromkeys(prefixes, shape))

    blueprint.record(add)


def failure(error: BaseException) -> Failure:
    """Return the failure that a client sees for an exception, and note it in the request's context.

    An unexpected exception is logged with its traceback.
    """
    context = CURRENT.get()
    request_id = context.id if context else ""
    if isinstance(error, ValidationError):
        error = InvalidRequest(explain(error))
    if isinstance(error, HTTPException):
        status = error.code or 500
        kind = next((kind for kind, its in STATUS.items() if its == status), "invalid")
        message = NO_ROUTE.get(status) or HTTPStatus(status).phrase.lower()
        found = Failure(status, kind, message, request_id=request_id)
    elif isinstance(error, OllmlxError):
        status = STATUS[error.kind]
        if error.kind == "out_of_memory" and error.retry_after is not None:
            status = RETRIABLE
        excess = error.excess if isinstance(error, ContextExceeded) else None
        found = Failure(
            status, error.kind, error.message, error.code, error.hint, error.retry_after, request_id, excess
        )
    else:
        logger.error("unexpected error while serving a request", exc_info=error)
        found = Failure(500, "internal", f"internal error (request {request_id})", request_id=request_id)
    if context is not None:
        context.error, context.code = found.kind, found.code or ""
    return found


def failure_headers(found: Failure) -> list[tuple[bytes, bytes]]:
    """Return the headers of a failure: when to try again, that it is no use, or how to authenticate."""
    never = found.retry_after is not None and math.isinf(found.retry_after)
    if (found.kind in LASTING and found.status != RETRIABLE) or never:
        return [(b"x-should-retry", b"false")]  # OpenAI's and Anthropic's clients repeat any other 5xx
    if found.status in (RETRIABLE, STATUS["limit_reached"]):
        seconds = max(1, math.ceil(found.retry_after or 1))
        wait = [(b"retry-after", str(seconds).encode())]
        hopeless = seconds > PATIENCE and found.status != RETRIABLE
        return [*wait, (b"x-should-retry", b"false")] if hopeless else wait
    if found.status == STATUS["unauthorized"]:
        return [(b"www-authenticate", b"Bearer")]
    return []


def explain(error: ValidationError) -> str:
    """Return the first fault of a body in one line: `messages.0.role: Input should be 'system', …`."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    message = str(fault["msg"]).removeprefix("Value error, ")
    for pydantics, jsons in _JSON_TERMS.items():
        message = message.replace(pydantics, jsons)
    return f"invalid request: {where}: {message}" if where else f"invalid request: {message}"
