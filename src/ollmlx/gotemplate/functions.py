"""The functions of Go's templates, and those that Ollama adds: `json`, `currentDate`, `yesterdayDate`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote_plus

from ollmlx.gotemplate.printf import formatted
from ollmlx.gotemplate.values import JsonList, TemplateFault, equal, joined, kind, less, shown, to_json, truth

Function = Callable[..., Any]
_HTML: Final = {"'": "&#39;", '"': "&#34;", "&": "&amp;", "<": "&lt;", ">": "&gt;", "\0": "\ufffd"}
_JS: Final = {
    "\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026", "=": "\\u003D",
}  # fmt: skip


def call(name: str, values: list[Any]) -> Any:
    """Return the result of a function. Raises TemplateFault."""
    function, least, most = FUNCTIONS[name]
    if len(values) < least or (most is not None and len(values) > most):
        raise TemplateFault(f"wrong number of args for {name}: got {len(values)}")
    try:
        return function(*values)
    except TemplateFault as fault:
        raise TemplateFault(f"error calling {name}: {fault}") from fault


def _equals_any(first: Any, *others: Any) -> bool:
    if not others:
        raise TemplateFault("missing argument for comparison")
    return any(equal(first, other) for other in others)


def _less_or_equal(first: Any, second: Any) -> bool:
    return less(first, second) or equal(first, second)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(_bytes(value))
    if isinstance(value, list | dict):
        return len(value)
    raise TemplateFault(f"len of {'nil pointer' if value is None else f'type {kind(value)}'}")


def _index(item: Any, *keys: Any) -> Any:
    if item is None:
        raise TemplateFault("index of untyped nil")
    for key in keys:
        if isinstance(item, dict):
            if not isinstance(key, str):
                raise TemplateFault(f"value has type {kind(key)}; should be string")
            item = item.get(key)
        elif isinstance(item, list | str):
            letters: Any = _bytes(item) if isinstance(item, str) else item
            item = letters[_position(key, len(letters) - 1)]
        else:
            raise TemplateFault(f"can't index item of type {kind(item)}")
    return item


def _slice(item: Any, *positions: Any) -> Any:
    if not isinstance(item, str | list):
        raise TemplateFault(f"can't slice item of type {kind(item)}")
    if len(positions) > 2 and isinstance(item, str):
        raise TemplateFault("cannot 3-index slice a string")
    whole: Any = _bytes(item) if isinstance(item, str) else item
    bounds = [_position(position, len(whole)) for position in positions]
    if bounds != sorted(bounds):
        raise TemplateFault(f"invalid slice index: {bounds[0]} > {bounds[-1]}")
    part = whole[bounds[0] if bounds else 0 : bounds[1] if len(bounds) > 1 else len(whole)]
    if isinstance(part, bytes):
        return part.decode("utf-8", "surrogateescape")
    return JsonList(part) if isinstance(item, JsonList) else part


def _position(value: Any, most: int) -> int:
    if kind(value) != "int":
        raise TemplateFault(f"cannot index slice/array with {'nil' if value is None else f'type {kind(value)}'}")
    if not 0 <= value <= most:
        raise TemplateFault(f"index out of range: {value}")
    return int(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _unsafe(values: tuple[Any, ...]) -> str:
    return joined([shown(value) if value is None else value for value in values])


def _html(*values: Any) -> str:
    return "".join(_HTML.get(letter, letter) for letter in _unsafe(values))


def _js(*values: Any) -> str:
    return re.sub(r"[^\w .,;:()\[\]{}|/?!@#$%^*+~`-]", _js_escape, _unsafe(values))


def _js_escape(match: re.Match[str]) -> str:
    letter = match[0]
    known = _JS.get(letter)
    return known or (letter if letter.isprintable() else f"\\u{ord(letter):04X}")


def _urlquery(*values: Any) -> str:
    return quote_plus(_unsafe(values), errors="surrogateescape", safe="~")


def _date(*_: Any, days: int = 0) -> str:
    return (datetime.now().astimezone() + timedelta(days=days)).strftime("%Y-%m-%d")


FUNCTIONS: Final[dict[str, tuple[Function, int, int | None]]] = {
    "and": (lambda *values: values[-1], 1, None),  # evaluated one by one: `evaluation` handles both
    "or": (lambda *values: values[-1], 1, None),
    "not": (lambda value: not truth(value), 1, 1),
    "eq": (_equals_any, 1, None),
    "ne": (lambda first, second: not equal(first, second), 2, 2),
    "lt": (less, 2, 2),
    "le": (_less_or_equal, 2, 2),
    "gt": (lambda first, second: not _less_or_equal(first, second), 2, 2),
    "ge": (lambda first, second: not less(first, second), 2, 2),
    "len": (_length, 1, 1),
    "index": (_index, 1, None),
    "slice": (_slice, 1, 4),
    "print": (lambda *values: joined(list(values)), 0, None),
    "println": (lambda *values: " ".join(joined([value]) for value in values) + "\n", 0, None),
    "printf": (formatted, 1, None),
    "html": (_html, 0, None),
    "js": (_js, 0, None),
    "urlquery": (_urlquery, 0, None),
    "json": (to_json, 1, 1),
    "currentDate": (_date, 0, None),
    "yesterdayDate": (lambda *values: _date(*values, days=-1), 0, None),
}
"""Each function with the least and the most number of its arguments."""
