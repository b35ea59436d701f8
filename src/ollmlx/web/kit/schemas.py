"""JSON schemas of answers, for the OpenAPI description: small pieces to build them from."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}


def record(required: dict[str, Schema], **optional: Schema) -> Schema:
    """An object with these fields, and maybe more."""
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def listing(item: Schema) -> Schema:
    """An array."""
    return {"type": "array", "items": item}


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*values: str) -> Schema:
    """One of these texts."""
    return {"enum": list(values)}
