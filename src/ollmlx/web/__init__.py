"""The web side, for route families: reading bodies, streaming answers, errors in a family's own shape.

Everything is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ollmlx.web.context import Exchange, caller, current
    from ollmlx.web.create_app import create_app
    from ollmlx.web.kit.body import parse_json, read_json, read_model, upload
    from ollmlx.web.kit.errors import Failure, Shape, declare_errors, plain_shape
    from ollmlx.web.kit.streaming import ndjson, sse
    from ollmlx.web.kit.tracking import embedded, tracked
    from ollmlx.web.openapi.document import BINARY, NDJSON, SSE, TEXT, describe
    from ollmlx.web.state import WebState, declare_upload, declare_work, json_answer, state_of

_HOMES = {
    "ollmlx.web.kit.body": ("parse_json", "read_json", "read_model", "upload"),
    "ollmlx.web.create_app": ("create_app",),
    "ollmlx.web.kit.errors": ("Failure", "Shape", "declare_errors", "plain_shape"),
    "ollmlx.web.context": ("Exchange", "caller", "current"),
    "ollmlx.web.openapi.document": ("BINARY", "NDJSON", "SSE", "TEXT", "describe"),
    "ollmlx.web.state": ("WebState", "declare_upload", "declare_work", "json_answer", "state_of"),
    "ollmlx.web.kit.streaming": ("ndjson", "sse"),
    "ollmlx.web.kit.tracking": ("embedded", "tracked"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BINARY",
    "NDJSON",
    "SSE",
    "TEXT",
    "Exchange",
    "Failure",
    "Shape",
    "WebState",
    "caller",
    "create_app",
    "current",
    "declare_errors",
    "declare_upload",
    "declare_work",
    "describe",
    "embedded",
    "json_answer",
    "ndjson",
    "parse_json",
    "plain_shape",
    "read_json",
    "read_model",
    "sse",
    "state_of",
    "tracked",
    "upload",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
