"""The fake tokenizer: pieces of at most six bytes, each its own number. Exact both ways, the same on every machine."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WORD = re.compile(r"\s*\S+|\s+")
_MAX_BYTES = 6  # a number below 2**53, which every JSON reader takes


def pieces(text: str) -> list[str]:
    """The tokens of a text; joined, they are the text."""
    return [piece for word in _WORD.findall(text) for piece in _cut(word)]


def encode(text: str) -> tuple[int, ...]:
    """Token ids."""
    return tuple(token_id(piece) for piece in pieces(text))


def token_id(piece: str) -> int:
    """The number of one token: its bytes, behind a one."""
    return int.from_bytes(b"\x01" + piece.encode("utf-8", "surrogatepass"), "big")


def decode(ids: Iterable[int]) -> str:
    """The text of token ids; an id that is no token's is U+FFFD."""
    return "".join(_piece(number) for number in ids)


def _piece(number: int) -> str:
    raw = number.to_bytes(8, "big").lstrip(b"\x00") if 0 < number < 2**63 else b""
    return raw[1:].decode("utf-8", "replace") if raw[:1] == b"\x01" else "\ufffd"


def _cut(word: str) -> Iterable[str]:
    piece = ""
    for char in word:
        if piece and len((piece + char).encode("utf-8", "surrogatepass")) > _MAX_BYTES:
            yield piece
            piece = ""
        piece += char
    if piece:
        yield piece
