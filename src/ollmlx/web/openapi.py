"""The OpenAPI document, generated from the routes: as `/openapi.json`, and as the page `/docs` for people.

`@describe(...)` states the bodies of a route's requests and responses. Path, methods and parameters are read from the
application. The page loads nothing from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from quart import Blueprint, Quart, Response, current_app
from werkzeug.routing import Rule

from ollmlx import __version__
from ollmlx.web.kit.errors import JSON
from ollmlx.web.state import json_answer

View = TypeVar("View", bound=Callable[..., Any])
Schema = dict[str, Any]
ModelSchemas = dict[tuple[type[BaseModel], str], Schema]
"""References to the schemas of models: of bodies as they are read, of responses as they are written."""

TEXT = "text/plain"
BINARY = "application/octet-stream"
HTML = "text/html"

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}

_ATTRIBUTE = "__ollmlx_operation__"
_PARAMETER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, .verb { font-family: ui-monospace, monospace; }
.verb { display: inline-block; min-width: 4.5em; font-weight: 600; }
details { border-top: 1px solid #8884; padding: .4rem 0; } summary { cursor: pointer; }
table { border-collapse: collapse; margin: .5rem 0 .5rem 1rem; }
td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd; } a { color: #8cf; } }
"""


def record(required: dict[str, Schema], **optional: Schema) -> Schema:
    """Return the schema of an object with these fields. It may have others."""
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def listing(item: Schema) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": item}


def nullable(schema: Schema) -> Schema:
    """Return the schema of a value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*values: str) -> Schema:
    """Return the schema of a string with one of these values."""
    return {"enum": list(values)}


@dataclass(frozen=True, slots=True)
class Operation:
    """The description of a route.

    body: the model of its body, whose media type is `takes`; or BINARY.
    answer: the model or schema of its response; None for an empty one.
    content: media types of the response, those of streams included. success: HTTP statuses of a success.
    error: the schema of its error body. parameters: schemas of the parts of its path that are not plain strings.
    """

    summary: str
    body: type[BaseModel] | str | None = None
    answer: type[BaseModel] | Schema | None = None
    takes: str = JSON
    content: tuple[str, ...] = (JSON,)
    success: tuple[int, ...] = (200,)
    error: Schema | None = None
    parameters: dict[str, Schema] | None = None


def describe(summary: str, **details: Any) -> Callable[[View], View]:
    """Describe a route; `details` are the fields of Operation."""
    operation = Operation(summary, **details)

    def attach(view: View) -> View:
        setattr(view, _ATTRIBUTE, operation)
        return view

    return attach


def docs_blueprint() -> Blueprint:
    """Return the routes `/openapi.json` and `/docs`."""
    made = Blueprint("description", __name__)

    @made.get("/openapi.json")
    @describe("This description.", answer=OBJECT)
    async def document() -> Response:
        return json_answer(openapi(current_app, __version__))

    @made.get("/docs")
    @describe("This description, for people.", answer=STRING, content=(HTML,))
    async def docs() -> Response:
        return Response(page(openapi(current_app, __version__)), content_type=f"{HTML}; charset=utf-8")

    return made


# -- the document ------------------------------------------------------------------------------------------------------


def openapi(app: Quart, version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of an application: every route that is described."""
    operations: list[tuple[Rule, Operation]] = [
        (rule, getattr(app.view_functions[rule.endpoint], _ATTRIBUTE))
        for rule in app.url_map.iter_rules()
        if hasattr(app.view_functions.get(rule.endpoint), _ATTRIBUTE)
    ]
    wanted: list[tuple[type[BaseModel], Any]] = []
    for _, operation in operations:
        if isinstance(operation.body, type):
            wanted.append((operation.body, "validation"))
        if isinstance(operation.answer, type):
            wanted.append((operation.answer, "serialization"))
    schemas, definitions = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
    paths: dict[str, dict[str, Any]] = {}
    for rule, operation in operations:
        verbs = paths.setdefault(_PARAMETER.sub(r"{\1}", rule.rule), {})
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            verbs[method.lower()] = _operation(rule, method, operation, schemas)  # type: ignore[arg-type]
    return {
        "openapi": "3.1.0",
        "info": {"title": "ollmlx", "version": version, "description": "An Ollama-compatible model server for MLX."},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": definitions.get("$defs", {})},
    }


def _operation(rule: Rule, method: str, operation: Operation, schemas: ModelSchemas) -> dict[str, Any]:
    made: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{method.lower()}_{rule.endpoint.replace('.', '_')}",
        "tags": [rule.endpoint.partition(".")[0]],
        "responses": _responses(operation, schemas, silent=method == "HEAD"),
    }
    known = operation.parameters or {}
    if names := _PARAMETER.findall(rule.rule):
        made["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": known.get(name, STRING)} for name in names
        ]
    if isinstance(operation.body, str):
        made["requestBody"] = {"required": True, "content": {operation.body: {"schema": {}}}}
    elif operation.body is not None:
        schema = schemas[(operation.body, "validation")]
        made["requestBody"] = {"required": True, "content": {operation.takes: {"schema": schema}}}
    return made


def _responses(operation: Operation, schemas: ModelSchemas, *, silent: bool) -> dict[str, Any]:
    answer = operation.answer
    schema = schemas[(answer, "serialization")] if isinstance(answer, type) else answer
    success: dict[str, Any] = {"description": "Success."}
    if schema is not None and not silent:
        success["content"] = {kind: {"schema": schema if kind == JSON else {}} for kind in operation.content}
    error: dict[str, Any] = {"description": "An error, as this API reports it."}
    if operation.error is not None and not silent:
        error["content"] = {JSON: {"schema": operation.error}}
    return {str(status): success for status in operation.success} | {"default": error}


# -- the page ----------------------------------------------------------------------------------------------------------


def page(document: dict[str, Any]) -> str:
    """Return an OpenAPI document as HTML: the routes by family, each with the fields of its body."""
    families: dict[str, str] = {}
    for path, verbs in document["paths"].items():
        for verb, operation in verbs.items():
            family = operation["tags"][0]
            block = _block(path, verb, operation, document["components"]["schemas"])
            families[family] = families.get(family, f"<h2>{escape(family)}</h2>") + block
    title, version, description = (escape(document["info"][key]) for key in ("title", "version", "description"))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>{title} {version}</h1>'
        f'<p>{description} <a href="openapi.json">openapi.json</a></p>'
        f"{''.join(block for _, block in sorted(families.items()))}</html>"
    )


def _block(path: str, verb: str, operation: dict[str, Any], schemas: dict[str, Schema]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    fields = "".join(_fields(kind["schema"], schemas) for kind in content.values())
    head = f'<span class="verb">{escape(verb.upper())}</span> <code>{escape(path)}</code>'
    return f"<details><summary>{head} {escape(operation['summary'])}</summary>{fields}</details>"


def _fields(schema: Schema, schemas: dict[str, Schema]) -> str:
    if "$ref" in schema:
        schema = schemas.get(_kind(schema), {})
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_kind(field))}</td>"
        f"<td>{'required' if name in required else ''}</td><td>{escape(field.get('description', ''))}</td></tr>"
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
