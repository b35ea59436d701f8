"""Tables as plain text, in the columns of Ollama's command line. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

GAP = "    "
NARROW_GAP = "  "
NARROWEST = 8  # columns that a shortened cell keeps


def cells(text: str) -> int:
    """The columns of a terminal that a text takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Left-aligned columns under a header. With a `width`, gaps and then the widest column shrink until lines fit."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(cells(line[column]) for line in lines) for column in range(len(header))]
    gap = GAP
    if width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        gap = NARROW_GAP
        _shrink(widths, width - len(gap) * (len(widths) - 1))
    return "\n".join(
        gap.join(_fit(text, columns) for text, columns in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _shrink(widths: list[int], room: int) -> None:
    while sum(widths) > room:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= NARROWEST:
            return
        widths[widest] -= 1


def _fit(text: str, columns: int) -> str:
    if cells(text) > columns:
        while cells(text) > columns - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (columns - cells(text))
