"""The constants of Go's templates: numbers, texts and characters."""

from __future__ import annotations

import re
from typing import Final

from ollmlx.gotemplate.lexer import Token, fail

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
