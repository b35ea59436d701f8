"""Errors on the Runner Protocol: which HTTP status a kind of `ollmlx.errors` travels under, and the body it has.

The daemon reads the kind in the body; the status is for proxies, logs and people with curl. Nothing else in the runner
names a status.
"""

from __future__ import annotations

from aiohttp import web

from ollmlx.errors import OllmlxError
from ollmlx.protocol import Problem
from ollmlx.types import Failed

STATUS: dict[str, int] = {
    "invalid": 400,
    "unsupported": 400,
    "context_exceeded": 400,
    "config": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "body_timeout": 408,
    "conflict": 409,
    "too_large": 413,
    "unsupported_encoding": 415,
    "cancelled": 499,
    "internal": 500,
    "plugin": 500,
    "runner_failed": 500,
    "storage": 500,
    "upstream": 502,
    "busy": 503,
    "runner_unavailable": 503,
    "timeout": 504,
    "out_of_memory": 507,
}


def problem_of(error: BaseException) -> Problem:
    """What the daemon is told of an exception. A bug is named by its type and text; the traceback is only logged."""
    if isinstance(error, OllmlxError):
        return Problem(kind=error.kind, message=error.message, code=error.code)
    if isinstance(error, MemoryError):
        return Problem(kind="out_of_memory", message="the runner ran out of memory")
    text = str(error)
    name = type(error).__name__
    return Problem(kind="internal", message=f"the engine failed: {name}: {text[:300]}" if text else name)


def failed_of(error: BaseException) -> Failed:
    """The same, as the last event of a stream that has begun."""
    problem = problem_of(error)
    return Failed(kind=problem.kind, message=problem.message, code=problem.code)


def answer(problem: Problem) -> web.Response:
    """The HTTP answer for a problem."""
    return web.Response(
        status=STATUS.get(problem.kind, 500),
        body=problem.__pydantic_serializer__.to_json(problem),
        content_type="application/json",
    )
