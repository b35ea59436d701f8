"""The smallest value that satisfies a JSON schema: what a fake model answers to `format`, and calls tools with."""

from __future__ import annotations

from typing import Any

from ollmlx.errors import InvalidRequest


def instance_of(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """A value for the commonly used part: types, properties, items, enum, const, anyOf, allOf, local `$ref`.

    Raises InvalidRequest for a type that does not exist.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        return instance_of(_referred(root, str(schema["$ref"])), root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for word in ("anyOf", "oneOf", "allOf"):
        if schema.get(word):
            return instance_of(schema[word][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _of_type(kind[0] if isinstance(kind, list) else kind, schema, root)


def _of_type(kind: str, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    if kind == "object":
        required = schema.get("required", list(schema.get("properties", {})))
        properties = schema.get("properties", {})
        return {name: instance_of(properties.get(name, {}), root) for name in required}
    if kind == "array":
        return [instance_of(schema.get("items") or {}, root) for _ in range(int(schema.get("minItems", 1)))]
    if kind == "string":
        return "x" * max(int(schema.get("minLength", 0)), 1)
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    if kind not in ("boolean", "null"):
        raise InvalidRequest(f"invalid format: Invalid type: {kind}")
    return True if kind == "boolean" else None


def _referred(root: dict[str, Any], pointer: str) -> dict[str, Any]:
    found: Any = root
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)
