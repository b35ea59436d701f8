"""Anthropic's error body, and the event that ends a stream which failed midway."""

from __future__ import annotations

from typing import Any

import orjson

from ollmlx.web import Failure

_TYPES = {
    "unauthorized": "authentication_error",
    "forbidden": "permission_error",
    "not_found": "not_found_error",
    "too_large": "request_too_large",
    "busy": "overloaded_error",
    "runner_unavailable": "overloaded_error",
    "timeout": "timeout_error",
}
_CLIENTS_FAULT = range(400, 500)


def shape(failure: Failure) -> dict[str, Any]:
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`."""
    fallback = "invalid_request_error" if failure.status in _CLIENTS_FAULT else "api_error"
    kind = _TYPES.get(failure.kind, fallback)
    return {"type": "error", "error": {"type": kind, "message": failure.message}, "request_id": failure.request_id}


def error_event(failure: Failure) -> bytes:
    """The last event of a broken stream."""
    return b"event: error\ndata: " + orjson.dumps(shape(failure)) + b"\n\n"


ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {"type": {"type": "string"}, "message": {"type": "string"}},
        },
        "request_id": {"type": ["string", "null"]},
    },
}
