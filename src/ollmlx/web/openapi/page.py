"""`/openapi.json`, and `/docs`: the same document as one readable page, which loads nothing from elsewhere."""

from __future__ import annotations

import html
from typing import Any

from quart import Blueprint, Response, current_app

from ollmlx import __version__
from ollmlx.web.openapi.document import Schema, describe, openapi
from ollmlx.web.state import json_answer

HTML = "text/html"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, .verb { font-family: ui-monospace, monospace; }
.verb { display: inline-block; min-width: 4.5em; font-weight: 600; }
details { border-top: 1px solid #8884; padding: .4rem 0; } summary { cursor: pointer; }
table { border-collapse: collapse; margin: .5rem 0 .5rem 1rem; }
td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } a { color: #8cf; } }
"""


def docs_blueprint() -> Blueprint:
    """Return the two routes."""
    made = Blueprint("description", __name__)

    @made.get("/openapi.json")
    @describe("This description.", answer={"type": "object"})
    async def document() -> Response:
        return json_answer(openapi(current_app, __version__))

    @made.get("/docs")
    @describe("This description, for people.", answer={"type": "string"}, content=(HTML,))
    async def docs() -> Response:
        return Response(page(openapi(current_app, __version__)), content_type=f"{HTML}; charset=utf-8")

    return made


def page(document: dict[str, Any]) -> str:
    """Return an OpenAPI document as HTML: the routes by family, each with the fields of its body."""
    families: dict[str, list[str]] = {}
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            block = _operation(path, verb, operation, document["components"]["schemas"])
            families.setdefault(operation["tags"][0], []).append(block)
    info = document["info"]
    body = "".join(f"<h2>{_escape(family)}</h2>{''.join(blocks)}" for family, blocks in sorted(families.items()))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_escape(info["title"])}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{_escape(info['title'])} {_escape(info['version'])}</h1><p>{_escape(info['description'])} "
        f'<a href="openapi.json">openapi.json</a></p>{body}</html>'
    )


def _operation(path: str, verb: str, operation: dict[str, Any], schemas: dict[str, Schema]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    fields = "".join(_fields(kind["schema"], schemas) for kind in content.values())
    head = f'<span class="verb">{_escape(verb.upper())}</span> <code>{_escape(path)}</code>'
    return f"<details><summary>{head} {_escape(operation['summary'])}</summary>{fields}</details>"


def _fields(schema: Schema, schemas: dict[str, Schema]) -> str:
    if reference := schema.get("$ref"):
        schema = schemas.get(str(reference).rpartition("/")[2], {})
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{_escape(name)}</code></td><td>{_escape(_kind(field))}</td>"
        f"<td>{'required' if name in required else ''}</td><td>{_escape(field.get('description', ''))}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table>{rows}</table>" if rows else ""


def _kind(field: Schema) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    for combination in ("anyOf", "oneOf"):
        if combination in field:
            return " | ".join(map(_kind, field[combination]))
    if "enum" in field or "const" in field:
        return " | ".join(map(repr, field.get("enum", [field.get("const")])))
    if field.get("type") == "array":
        return f"list of {_kind(field.get('items', {}))}"
    return str(field.get("type", "any"))


def _escape(text: object) -> str:
    return html.escape(str(text))
