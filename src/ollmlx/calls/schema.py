"""The tools that a request offers, and the check of a call's arguments against a tool's JSON schema.

Schemas come from clients: no reference is fetched, patterns are not run, and a check ends after a number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import cached_property, lru_cache
from typing import Any, Final

from ollmlx.errors import InvalidRequest
from ollmlx.types import Tool

MOST_STEPS: Final = 20_000
"""Keywords of a schema that are applied to one call."""
UNCHECKED: Final = ("pattern", "patternProperties", "format", "contentSchema", "$dynamicRef", "propertyNames")
"""Keywords that are not applied: a client's regular expression could run for hours."""

_steps: ContextVar[int] = ContextVar("ollmlx_schema_steps", default=0)


class OfferedTools:
    """The functions that the model may call, by name."""

    def __init__(self, tools: Sequence[Tool], tool_choice: str = "auto") -> None:
        functions = [tool.get("function", tool) for tool in tools] if tool_choice != "none" else []
        any_of_them = tool_choice in ("auto", "none", "required")
        self._functions: dict[str, dict[str, Any]] = {
            function["name"]: function
            for function in functions
            if isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"]
            if any_of_them or function["name"] == tool_choice
        }

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __bool__(self) -> bool:
        return bool(self._functions)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of the request."""
        return tuple(self._functions)

    def parameters(self, name: str) -> tuple[str, ...]:
        """Return the names of a function's parameters, in the order of its schema."""
        properties = self._schema(name).get("properties")
        return tuple(properties) if isinstance(properties, dict) else ()

    def takes_text(self, name: str, parameter: str) -> bool:
        """Return whether this parameter is a text, or of no stated type."""
        properties = self._schema(name).get("properties")
        stated = properties.get(parameter) if isinstance(properties, dict) else None
        return not isinstance(stated, dict) or stated.get("type", "string") == "string"

    def is_strict(self, name: str) -> bool:
        """Return whether the client wants every call of this function checked."""
        return self._functions.get(name, {}).get("strict") is True

    def fault(self, name: str, arguments: dict[str, Any]) -> str | None:
        """Return why the arguments do not fit the function's schema; None when they fit or nothing is stated."""
        schema = self._schema(name)
        return _fault(schema, arguments) if schema else None

    def check_strict(self) -> None:
        """Raise InvalidRequest for a schema that is no JSON schema, of a function whose calls are to be checked."""
        for name in filter(self.is_strict, self.names):
            if (problem := _invalid(self._schema(name))) is not None:
                raise InvalidRequest(f"tools: the parameters of {name!r} are no JSON schema: {problem}")

    def _schema(self, name: str) -> dict[str, Any]:
        found = self._functions.get(name, {}).get("parameters")
        return found if isinstance(found, dict) else {}


def _fault(schema: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    import referencing

    token = _steps.set(0)
    try:
        if _invalid(schema) is not None:
            return None
        checker = _checker()(schema, registry=referencing.Registry())
        error = next(checker.iter_errors(arguments), None)
    except (_TooManySteps, RecursionError):
        return "its schema is too complex to check"
    except referencing.exceptions.Unresolvable as missing:
        return f"its schema refers to {str(missing.ref)[:80]!r}, which it does not hold"
    finally:
        _steps.reset(token)
    if error is None:
        return None
    where = ".".join(str(part) for part in error.absolute_path)
    return f"{where}: {error.message[:200]}" if where else error.message[:200]


def _invalid(schema: dict[str, Any]) -> str | None:
    """Return why this is no JSON schema; None when it is one."""
    from jsonschema import Draft202012Validator

    try:
        error = next(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema), None)
    except RecursionError:
        return "it is nested too deeply"
    return None if error is None else error.message[:200]


class _TooManySteps(Exception):
    pass


@lru_cache(maxsize=1)
def _checker() -> Any:
    """Return the validator without the keywords in UNCHECKED, which counts its steps."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import create

    keywords = {
        name: _counted(keyword) for name, keyword in Draft202012Validator.VALIDATORS.items() if name not in UNCHECKED
    }
    return create(Draft202012Validator.META_SCHEMA, keywords, type_checker=Draft202012Validator.TYPE_CHECKER)


Keyword = Callable[[Any, Any, Any, Any], Iterable[Any] | None]


def _counted(keyword: Keyword) -> Keyword:
    def apply(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        steps = _steps.get() + 1
        if steps > MOST_STEPS:
            raise _TooManySteps
        _steps.set(steps)
        yield from keyword(validator, value, instance, schema) or ()

    return apply
