"""Control characters in text of strangers: shown escaped, so that no terminal obeys them, no line is forged. Pure."""

from __future__ import annotations

_ORDERS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
"""C0 and C1 controls, which move the cursor, set the clipboard (OSC 52) or begin a line; and Unicode's line ends."""
_DIRECTIONS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Bidirectional embeddings, overrides and isolates: they show characters in another order than they are in."""


def _shown(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


_ONE_LINE = {code: _shown(code) for code in (*_ORDERS, *_DIRECTIONS)}
_LINES = {code: shown for code, shown in _ONE_LINE.items() if chr(code) not in "\n\t"}
_IN_JSON = {code: f"\\u{code:04x}" for code in _ONE_LINE if code >= 0x7F}


def escape_line(text: str) -> str:
    """Return a text as one line: every control character is shown, such as `\\x1b`."""
    return text.translate(_ONE_LINE)


def escape_text(text: str) -> str:
    """Return a text of several lines: line feeds and tabs stay, every other control character is shown."""
    return text.translate(_LINES)


def escape_json(document: str) -> str:
    """Return the same JSON document with every control character in its strings escaped, as JSON escapes them."""
    return document.translate(_IN_JSON)
