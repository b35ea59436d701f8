"""The values that templates work with, and how Go compares, prints and encodes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


class _Nothing:
    """The value of a pipeline without one; a field of it is nothing again."""

    def __bool__(self) -> bool:
        return False


NOTHING: Final = _Nothing()


class TemplateFault(Exception):
    """An action that Go would refuse to execute."""


@dataclass(frozen=True, slots=True)
class Record:
    """A struct: its fields under Go's names, and `document`, its form in JSON, as which it is printed."""

    fields: Mapping[str, Any]
    document: Any


class JsonList(list[Any]):
    """A list that is printed as JSON."""


class JsonMap(dict[str, Any]):
    """A map that is printed as JSON, its keys in their own order."""


def kind(value: Any) -> str:
    """Return the kind of a value in Go's words."""
    match value:
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float64"
        case str():
            return "string"
        case list():
            return "slice"
        case dict():
            return "map"
        case Record():
            return "struct"
    return "nil"


def truth(value: Any) -> bool:
    """Return whether a value counts as true: not zero, not empty, not nil. A struct always does."""
    return isinstance(value, Record) or bool(value)


def shown(value: Any) -> str:
    """Return a value as Go prints it in a template."""
    return "<no value>" if value is None or value is NOTHING else printed(value)


def printed(value: Any) -> str:
    """Return a value as fmt.Sprint prints it."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case float():
            return format_float(value, 1e-4, 1e6)
        case Record() | JsonList() | JsonMap():
            return to_json(value)
        case list():
            return f"[{' '.join(map(printed, value))}]"
        case dict():
            return f"map[{' '.join(f'{key}:{printed(value[key])}' for key in sorted(value))}]"
        case int():
            return str(value)
    return "<nil>"


def joined(values: list[Any]) -> str:
    """Return values as fmt.Sprint joins them: with a space between two of which neither is a text."""
    parts: list[str] = []
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            parts.append(" ")
        parts.append(printed(value))
    return "".join(parts)


def to_json(value: Any) -> str:
    """Return a value as Go's encoding/json writes it: compact, keys sorted, with the escapes that protect HTML."""
    text = _encoded(value, ordered=False)
    for letter in "<>&\u2028\u2029":
        if letter in text:
            text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _encoded(value: Any, ordered: bool) -> str:
    match value:
        case str():
            return json.dumps(value.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), ensure_ascii=False)
        case bool():
            return "true" if value else "false"
        case float():
            return format_float(value, 1e-6, 1e21).replace("e-0", "e-")
        case int():
            return str(value)
        case Record():
            return _encoded(value.document, ordered=True)
        case list():
            ordered = ordered or isinstance(value, JsonList)
            return f"[{','.join(_encoded(each, ordered) for each in value)}]"
        case dict():
            ordered = ordered or isinstance(value, JsonMap)
            keys = value if ordered else sorted(value)
            return f"{{{','.join(f'{_encoded(key, ordered)}:{_encoded(value[key], ordered)}' for key in keys)}}}"
    return "null"


def format_float(value: float, least: float, most: float) -> str:
    """Return the shortest text of a number; with an exponent below `least` and from `most` on."""
    if value != value or value in (float("inf"), float("-inf")):
        return "NaN" if value != value else ("+Inf" if value > 0 else "-Inf")
    mantissa, _, power = repr(value).partition("e")
    sign, mantissa = ("-", mantissa[1:]) if mantissa.startswith("-") else ("", mantissa)
    whole, _, rest = mantissa.partition(".")
    digits = (whole + rest).lstrip("0")
    exponent = int(power or 0) + len(whole) - 1 - (len(whole + rest) - len(digits) if whole == "0" else 0)
    digits = digits.rstrip("0") or "0"
    if value == 0:
        return f"{sign}0"
    if least <= abs(value) < most:
        return sign + _plain(digits, exponent)
    fraction = f".{digits[1:]}" if digits[1:] else ""
    return f"{sign}{digits[0]}{fraction}e{'-' if exponent < 0 else '+'}{abs(exponent):02}"


def _plain(digits: str, exponent: int) -> str:
    """Return the number whose first digit stands for ten to the power of `exponent`."""
    if exponent < 0:
        return f"0.{'0' * (-exponent - 1)}{digits}"
    whole, rest = digits[: exponent + 1].ljust(exponent + 1, "0"), digits[exponent + 1 :]
    return f"{whole}.{rest}" if rest else whole


def equal(first: Any, second: Any) -> bool:
    """Return whether two values are equal, as `eq` does. Raises TemplateFault for kinds that cannot be compared."""
    kinds = {kind(first), kind(second)}
    if kinds & {"slice", "map", "struct"} and len(kinds) == 1:
        raise TemplateFault(f"non-comparable type {kinds.pop()}")
    if len(kinds) == 1:
        return kinds == {"nil"} or bool(first == second)
    if "nil" in kinds:
        return False
    raise TemplateFault("incompatible types for comparison")


def less(first: Any, second: Any) -> bool:
    """Return whether one value is less than another, as `lt` does. Raises TemplateFault."""
    if any(kind(value) not in ("int", "float64", "string") for value in (first, second)):
        raise TemplateFault("invalid type for comparison")
    if kind(first) != kind(second):
        raise TemplateFault("incompatible types for comparison")
    return bool(first < second)


def field(value: Any, name: str) -> Any:
    """Return a field of a struct or the value of a key, None if a map has no such key. Raises TemplateFault."""
    if value is NOTHING:
        return NOTHING
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, Record) and name in value.fields:
        return value.fields[name]
    if value is None:
        raise TemplateFault(f"nil pointer evaluating interface {{}}.{name[:80]}")
    raise TemplateFault(f"can't evaluate field {name[:80]} in type {kind(value)}")
