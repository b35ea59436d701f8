"""The OpenAPI document, generated from the routes.

`@describe(...)` states the bodies of a route's requests and responses. Path, methods and parameters are read from the
application. `undescribed` finds routes without a description.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ollmlx.web.kit.errors import JSON

if TYPE_CHECKING:
    from quart import Quart
    from werkzeug.routing import Rule

View = TypeVar("View", bound=Callable[..., Any])
Schema = dict[str, Any]

TEXT = "text/plain"
BINARY = "application/octet-stream"

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}

_ATTRIBUTE = "__ollmlx_operation__"
_REFERENCE = "#/components/schemas/{model}"
_IMPLIED = frozenset({"OPTIONS"})


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

    body: the model of its JSON body, or BINARY. answer: the model or schema of its response; None for an empty one.
    content: media types of the response, those of streams included. success: HTTP statuses of a success.
    error: the schema of its error body. parameters: schemas of the parts of its path that are not plain strings.
    """

    summary: str
    body: type[BaseModel] | str | None = None
    answer: type[BaseModel] | Schema | None = None
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


def undescribed(app: Quart) -> list[str]:
    """Return the routes that have no description."""
    return [f"{rule.rule} ({rule.endpoint})" for rule, operation in _routes(app) if operation is None]


def openapi(app: Quart, version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of an application."""
    operations = [(rule, operation) for rule, operation in _routes(app) if operation is not None]
    schemas, definitions = _schemas([operation for _, operation in operations])
    paths: dict[str, dict[str, Any]] = {}
    for rule, operation in operations:
        path, parameters = _path(rule, operation)
        for method in sorted((rule.methods or set()) - _IMPLIED):
            paths.setdefault(path, {})[method.lower()] = _operation(rule, method, operation, parameters, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ollmlx", "version": version, "description": "An Ollama-compatible model server for MLX."},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": definitions},
    }


def _routes(app: Quart) -> Iterator[tuple[Rule, Operation | None]]:
    for rule in app.url_map.iter_rules():
        view = app.view_functions.get(rule.endpoint)
        if view is not None and rule.endpoint != "static":
            yield rule, getattr(view, _ATTRIBUTE, None)


def _schemas(operations: list[Operation]) -> tuple[dict[tuple[type[BaseModel], str], Any], dict[str, Any]]:
    """Return references to the schemas of all models (of bodies as read, of responses as written), and the schemas."""
    wanted: list[tuple[type[BaseModel], Any]] = []
    for operation in operations:
        if isinstance(operation.body, type):
            wanted.append((operation.body, "validation"))
        if isinstance(operation.answer, type):
            wanted.append((operation.answer, "serialization"))
    references, document = models_json_schema(wanted, ref_template=_REFERENCE)
    return dict(references), document.get("$defs", {})  # type: ignore[arg-type]


def _path(rule: Rule, operation: Operation) -> tuple[str, list[dict[str, Any]]]:
    names = re.findall(r"<(?:[^:<>]+:)?([^<>]+)>", rule.rule)
    path = re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule)
    known = operation.parameters or {}
    return path, [{"name": name, "in": "path", "required": True, "schema": known.get(name, STRING)} for name in names]


def _operation(
    rule: Rule,
    method: str,
    operation: Operation,
    parameters: list[dict[str, Any]],
    schemas: dict[tuple[type[BaseModel], str], Any],
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": f"{method.lower()}_{rule.endpoint.replace('.', '_')}",
        "tags": [rule.endpoint.partition(".")[0]],
        "responses": _responses(operation, schemas, silent=method == "HEAD"),
    }
    if parameters:
        made["parameters"] = parameters
    if isinstance(operation.body, str):
        made["requestBody"] = {"required": True, "content": {operation.body: {"schema": {}}}}
    elif operation.body is not None:
        schema = schemas[(operation.body, "validation")]
        made["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return made


def _responses(
    operation: Operation, schemas: dict[tuple[type[BaseModel], str], Any], *, silent: bool
) -> dict[str, Any]:
    answer = operation.answer
    schema = schemas[(answer, "serialization")] if isinstance(answer, type) else answer
    success: dict[str, Any] = {"description": "Success."}
    if schema is not None and not silent:
        success["content"] = {kind: {"schema": schema if kind == JSON else {}} for kind in operation.content}
    error: dict[str, Any] = {"description": "An error, as this API reports it."}
    if operation.error is not None and not silent:
        error["content"] = {JSON: {"schema": operation.error}}
    return {str(status): success for status in operation.success} | {"default": error}
