"""Splits a template into text and the tokens of its actions, in one pass."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NoReturn, cast

from ollmlx.errors import InvalidRequest

Kind = Literal[
    "text", "open", "close", "space", "field", "variable", "identifier", "number", "string", "char", "dot", "symbol",
    "end",
]  # fmt: skip

_SPACES: Final = " \t\r\n"
_TOKEN: Final = re.compile(
    r"(?P<space>[ \t\r\n]+)"
    r"|(?P<close>-?\}\})"
    r"|(?P<field>\.[^\W\d]\w*)"
    r"|(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))"
    r"|(?P<dot>\.)"
    r"|(?P<variable>\$\w*)"
    r"|(?P<identifier>[^\W\d]\w*)"
    r'|(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)'
    r"|(?P<char>'(?:[^'\\\n]|\\[^\n])+')"
    r"|(?P<symbol>:=|[=|(),])"
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `text` as it is written, `line` from 1."""

    kind: Kind
    text: str
    line: int


def fail(line: int, message: str) -> NoReturn:
    """Raise InvalidRequest for a fault in this line of a template."""
    raise InvalidRequest(f"template error: line {line}: {message}")


def tokens(source: str) -> Iterator[Token]:
    """Yield the tokens of a template. Text is trimmed where a marker says so. Raises InvalidRequest."""
    position, line, trims = 0, 1, False
    while True:
        start = source.find("{{", position)
        text = source[position : start if start >= 0 else len(source)]
        following = line + text.count("\n")
        if trims:
            text = text.lstrip(_SPACES)
        opens_trimmed = start >= 0 and source.startswith("{{-", start) and source[start + 3 : start + 4] in (*_SPACES,)
        if opens_trimmed:
            text = text.rstrip(_SPACES)
        if text:
            yield Token("text", text, line)
        if start < 0:
            yield Token("end", "", following)
            return
        line = following
        position = start + (3 if opens_trimmed else 2)
        comment = position + opens_trimmed  # one space stands before it
        if source.startswith("/*", comment):
            position, trims = _comment_end(source, comment, line)
            line += source.count("\n", start, position)
            continue
        yield Token("open", "{{", line)
        position, line, trims = yield from _action(source, position, line)


def _comment_end(source: str, start: int, line: int) -> tuple[int, bool]:
    """Return where the text after a comment begins, and whether it is trimmed."""
    end = source.find("*/", start)
    if end < 0:
        fail(line, "unclosed comment")
    end += 2
    if source.startswith("}}", end):
        return end + 2, False
    if source[end : end + 1] in (*_SPACES,) and source.startswith("-}}", end + 1):
        return end + 4, True
    fail(line, "comment ends before closing delimiter")


def _action(source: str, position: int, line: int) -> Generator[Token, None, tuple[int, int, bool]]:
    """Yield the tokens up to the end of an action. Return the position and line behind it, and whether it trims."""
    last = "open"
    while True:
        found = _TOKEN.match(source, position)
        if found is None:
            fail(
                line, "unclosed action" if position >= len(source) else f"unexpected {source[position]!r} in an action"
            )
        kind, text = found.lastgroup, found[0]
        assert kind is not None
        if kind == "close" and (text == "}}" or last == "space"):
            yield Token("close", text, line)
            return found.end(), line, text != "}}"
        if kind == "close":
            fail(line, "unexpected '-' in an action")
        yield Token(cast(Kind, kind), text, line)
        line += text.count("\n")
        position, last = found.end(), kind


_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)
_SIMPLE: Final = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"',
}  # fmt: skip


def read_number(token: Token) -> int | float:
    """Return the value of a number. Raises InvalidRequest."""
    text = token.text.replace("_", "")
    digits = text.lstrip("+-")
    try:
        if digits[:2].lower() in ("0x", "0o", "0b"):
            value: int | float = int(text, 0)
        elif any(letter in text for letter in ".eE"):
            value = float(text)
        else:
            value = int(text, 8) if len(digits) > 1 and digits[0] == "0" else int(text)
    except ValueError:
        fail(token.line, f"bad number {token.text[:40]!r}")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        fail(token.line, f"integer overflow: {token.text[:40]}")
    return value


def read_string(token: Token) -> str:
    """Return the value of a quoted text. Raises InvalidRequest."""
    if token.text[0] == "`":
        return token.text[1:-1].replace("\r", "")
    return _unescaped(token, quote='"')


def read_char(token: Token) -> int:
    """Return the code point of a character. Raises InvalidRequest."""
    text = _unescaped(token, quote="'")
    if len(text) != 1:
        fail(token.line, f"malformed character constant {token.text[:40]}")
    return ord(text)


def _unescaped(token: Token, quote: str) -> str:
    def value(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "xuU" and len(code) > 1:
            number = int(code[1:], 16)
            if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                fail(token.line, "a text has an escape that is no character")
            return _byte(number) if code[0] == "x" else chr(number)
        if code.isdecimal() and len(code) == 3:
            return _byte(int(code, 8) & 0xFF)
        if code not in _SIMPLE or code == ("'" if quote == '"' else '"'):
            fail(token.line, f"unknown escape \\{code} in a text")
        return _SIMPLE[code]

    text = _ESCAPE.sub(value, token.text[1:-1])
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def _byte(number: int) -> str:
    return bytes([number]).decode("utf-8", "surrogateescape")
