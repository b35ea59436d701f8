"""OpenAI's error body, and the record that ends a stream which failed midway."""

from __future__ import annotations

from typing import Any

import orjson

from ollmlx.web import Failure

_TYPES = {
    "not_found": "not_found_error",
    "unauthorized": "authentication_error",
    "forbidden": "permission_error",
}
_CLIENTS_FAULT = range(400, 500)


def shape(failure: Failure) -> dict[str, Any]:
    """`{"error": {"message", "type", "param", "code"}}`; `code` is the code of the runbook."""
    fallback = "invalid_request_error" if failure.status in _CLIENTS_FAULT else "api_error"
    kind = _TYPES.get(failure.kind, fallback)
    return {"error": {"message": failure.message, "type": kind, "param": None, "code": failure.code}}


def error_event(failure: Failure) -> bytes:
    """The last event of a broken stream; `[DONE]` never follows it."""
    return b"data: " + orjson.dumps(shape(failure)) + b"\n\n"


ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
