"""JSON as models write it: read as it stands, or mended where only one reading is possible.

Mended are doubled braces, closing brackets that are missing at the end or too many, commas before a closing bracket,
line breaks and unknown escapes inside a text. A text that is not closed stays broken: nobody knows what it lacks.
"""

from __future__ import annotations

import ast
import json
from typing import Any, Final

CLOSERS: Final = {"{": "}", "[": "]"}
LONGEST_PYTHON: Final = 200_000
"""Characters of the longest text that is read as Python."""


class BrokenJson(ValueError):
    """The text is no JSON, and cannot be mended; the message says where it breaks."""


def read_json(text: str) -> Any:
    """Return the value that the text stands for. Raises BrokenJson."""
    text = text.strip()
    fault: BrokenJson | None = None
    for reading in _readings(text):
        try:
            return _strict(reading)
        except BrokenJson as error:
            fault = fault or error
    for reading in _readings(text):
        try:
            return _strict(mended(reading))
        except BrokenJson as error:
            fault = error if reading == text else fault
    try:
        return read_python(text)
    except BrokenJson as error:
        raise fault or error from None


def read_python(source: str | ast.expr) -> Any:
    """Return the value of a Python literal as JSON would have it. Raises BrokenJson."""
    if isinstance(source, str) and len(source) > LONGEST_PYTHON:
        raise BrokenJson("it is too long")
    try:
        return json.loads(json.dumps(ast.literal_eval(source), allow_nan=False))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise BrokenJson("it is neither JSON nor Python") from error


def _readings(text: str) -> list[str]:
    """Return the text; and when its braces are doubled, as templates show them, the text without the doubling."""
    if not text.startswith(("{{", "[{{")):
        return [text]
    outer = text[1:-1] if text.startswith("{{") and text.endswith("}}") else text
    halved = text.replace("{{", "{").replace("}}", "}")
    return [text, outer, halved, text[1:] if text.startswith("{{") else halved]


def _strict(text: str) -> Any:
    try:
        return json.loads(text, strict=False, parse_constant=no_constant)
    except RecursionError:
        raise BrokenJson("it is nested too deeply") from None
    except BrokenJson:
        raise
    except json.JSONDecodeError as error:
        raise BrokenJson(f"{error.msg} at character {error.pos + 1}") from error
    except ValueError as error:
        raise BrokenJson(str(error)[:80]) from error


def no_constant(name: str) -> None:
    """Refuse NaN and the infinities, which Python's reader takes. Raises BrokenJson."""
    raise BrokenJson(f"{name} is no JSON")


def mended(text: str) -> str:
    """Return the text with its brackets closed and its escapes repaired. Raises BrokenJson when that is a guess."""
    out: list[str] = []
    open_: list[str] = []
    quoted = False
    index = 0
    while index < len(text):
        char = text[index]
        if quoted:
            index += _in_text(text, index, out)
            quoted = char != '"'
            continue
        if char == '"':
            quoted = True
        elif char in CLOSERS:
            open_.append(CLOSERS[char])
        elif char in "}]":
            if not open_:
                if text[index:].strip("}] \n\t"):
                    raise BrokenJson(f"a bracket is closed that was not opened, at character {index + 1}")
                break
            if open_.pop() != char:
                raise BrokenJson(f"the wrong bracket is closed at character {index + 1}")
            _drop_comma(out)
        out.append(char)
        index += 1
    if quoted:
        raise BrokenJson("it ends inside a text")
    if "".join(out[-40:]).rstrip().endswith((",", ":")):
        raise BrokenJson("it ends in the middle of an object")
    return "".join(out) + "".join(reversed(open_))


def _in_text(text: str, index: int, out: list[str]) -> int:
    """Copy one character, or one escape, of a quoted text. Returns the number of characters read."""
    if text[index] != "\\":
        out.append(text[index])
        return 1
    escaped = text[index + 1 : index + 2]
    if escaped == "'":
        out.append("'")
    elif escaped and escaped in '"\\/bfnrtu':
        out.append("\\" + escaped)
    else:
        out.append("\\\\" + escaped)
    return 2


def _drop_comma(out: list[str]) -> None:
    """Remove a comma before a closing bracket."""
    at = len(out) - 1
    while at >= 0 and out[at].isspace():
        at -= 1
    if at >= 0 and out[at] == ",":
        del out[at]
