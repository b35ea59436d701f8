"""The formats of `printf` in templates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from ollmlx.gotemplate.values import JsonList, JsonMap, TemplateFault, kind, printed

MAX_WIDTH: Final = 1000
_VERB: Final = re.compile(r"%([-+# 0]*)(\d+)?(?:\.(\d+)?)?(.)", re.DOTALL)


def formatted(form: Any, *values: Any) -> str:
    """Return the values in a format of fmt.Sprintf. Raises TemplateFault for verbs other than v s q d x X c f g e t."""
    if not isinstance(form, str):
        raise TemplateFault(f"wrong type for value; expected string; got {kind(form)}")
    rest = iter(values)
    text = _VERB.sub(lambda match: _piece(match, rest), form)
    extra = list(rest)
    if extra:
        shown = ", ".join("<nil>" if value is None else f"{kind(value)}={printed(value)}" for value in extra)
        text += f"%!(EXTRA {shown})"
    return text


def _piece(match: re.Match[str], rest: Iterator[Any]) -> str:
    flags, width, precision, verb = match[1], int(match[2] or 0), match[3], match[4]
    if verb == "%":
        return "%"
    if width > MAX_WIDTH or int(precision or 0) > MAX_WIDTH:
        raise TemplateFault(f"a width of more than {MAX_WIDTH}")
    value = next(rest, rest)
    if value is rest:
        return f"%!{verb}(MISSING)"
    dotted = "." in match[0][: -len(verb)]
    text = _converted(value, verb, flags, int(precision or 0) if dotted else None)
    if "-" in flags:
        return text.ljust(width)
    if "0" in flags and isinstance(value, int | float) and not isinstance(value, bool):
        return text.zfill(width)
    return text.rjust(width)


def _converted(value: Any, verb: str, flags: str, precision: int | None) -> str:
    def inner(each: Any) -> str:
        return "<nil>" if each is None else _converted(each, verb, flags, precision)

    if isinstance(value, list) and not isinstance(value, JsonList):
        return f"[{' '.join(map(inner, value))}]"
    if isinstance(value, dict) and not isinstance(value, JsonMap):
        return f"map[{' '.join(f'{inner(key)}:{inner(value[key])}' for key in sorted(value))}]"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = isinstance(value, int) and number
    plus = "+" if "+" in flags and number and value >= 0 else " " if " " in flags and number and value >= 0 else ""
    if verb in "vs" and value is None:
        return "%!s(<nil>)" if verb == "s" else "<nil>"
    if verb == "v" or (verb == "s" and not number and not isinstance(value, bool)):
        text = printed(value)
        return (text[:precision] if precision is not None and isinstance(value, str) else plus + text) or ""
    match verb:
        case "q" if isinstance(value, str):
            return _quoted(value)
        case "d" if whole:
            return plus + str(value)
        case "x" | "X" if whole or isinstance(value, str):
            text = f"{value:x}" if whole else value.encode("utf-8", "surrogateescape").hex()
            return text.upper() if verb == "X" else text
        case "c" if whole and 0 <= value < 0x110000 and not 0xD800 <= value < 0xE000:
            return chr(value)
        case "f" | "F" | "e" if isinstance(value, float):
            return plus + f"{value:.{6 if precision is None else precision}{verb}}"
        case "g" if isinstance(value, float):
            return plus + (printed(value) if precision is None else f"{value:.{precision or 1}g}")
        case "t" if isinstance(value, bool):
            return printed(value)
        case "v" | "s" | "q" | "d" | "x" | "X" | "c" | "f" | "F" | "e" | "g" | "t":
            return f"%!{verb}({'<nil>' if value is None else f'{kind(value)}={printed(value)}'})"
    raise TemplateFault(f"printf does not know %{verb}")


def _quoted(text: str) -> str:
    escapes = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
    escapes |= {"\\": "\\\\", '"': '\\"'}

    def letter(each: str) -> str:
        if each in escapes or each.isprintable():
            return escapes.get(each, each)
        code = ord(each)
        if 0xDC80 <= code <= 0xDCFF:
            return f"\\x{code - 0xDC00:02x}"
        return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return f'"{"".join(map(letter, text))}"'
