"""Text for a terminal: tables, times, and word wrap for text that arrives in pieces. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime

from ollmlx.text.controls import escape_text

GAP = "    "

_UNITS = {"year": 365 * 86400, "month": 30 * 86400, "week": 7 * 86400, "day": 86400, "hour": 3600, "minute": 60}
_FAR = 100 * 365 * 86400  # the daemon sends `keep_alive: -1` as a date that is centuries away
_FRACTION = re.compile(r"\.(\d{6})\d+")


def cells(text: str) -> int:
    """Return the columns of a terminal that a text takes."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Return left-aligned columns under a header, as Ollama prints them.

    If lines do not fit into `width` columns, the gaps shrink first, then the widest columns.
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(cells(line[column]) for line in lines) for column in range(len(header))]
    gap = GAP
    if width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        gap = "  "
        _shrink(widths, width - len(gap) * (len(widths) - 1))
    return "\n".join(
        gap.join(_fit(text, columns) for text, columns in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _shrink(widths: list[int], available: int) -> None:
    while sum(widths) > available:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= 8:  # a shortened cell stays readable
            return
        widths[widest] -= 1


def _fit(text: str, columns: int) -> str:
    if cells(text) > columns:
        while cells(text) > columns - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (columns - cells(text))


def parse_time(text: str) -> datetime:
    """Parse an RFC 3339 time. Digits beyond microseconds, which Go writes, are ignored."""
    return datetime.fromisoformat(_FRACTION.sub(r".\1", text.replace("Z", "+00:00")))


def ago(text: str, now: datetime) -> str:
    """Return `2 days ago` or `Less than a second ago`; `Never` for no time."""
    if not text:
        return "Never"
    seconds = (now - parse_time(text)).total_seconds()
    return f"{about(seconds)} ago" if seconds >= 0 else f"{about(-seconds)} from now"


def until(text: str, now: datetime) -> str:
    """Return `4 minutes from now`, `Forever`, or `Stopping...` for a time that has passed."""
    if not text:
        return "Forever"
    seconds = (parse_time(text) - now).total_seconds()
    if seconds > _FAR:
        return "Forever"
    return f"{about(seconds)} from now" if seconds > 0 else "Stopping..."


def about(seconds: float) -> str:
    """Return a duration in its largest unit: `About a minute`, `3 hours`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    for unit, size in _UNITS.items():
        if whole >= 2 * size or (size >= 86400 and whole >= size):
            count = whole // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
        if whole >= size:
            return "About an hour" if unit == "hour" else f"About a {unit}"
    return f"{whole} second{'s' if whole > 1 else ''}"


def short_duration(nanoseconds: int) -> str:
    """Return a measured duration: `1m2.3s`, `812.4ms`, `35µs`."""
    seconds = nanoseconds / 1e9
    if seconds >= 60:
        return f"{int(seconds // 60)}m{seconds % 60:.1f}s"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.4g}{unit}"
    return f"{seconds * 1e6:.0f}µs" if seconds else "0s"


def printable(text: str) -> str:
    """Return an answer with its control characters escaped: a model must not control the terminal."""
    return escape_text(text.replace("\r", ""))


class WordWrap:
    """Breaks lines between words while text arrives. The result of `feed` can be written at once.

    A word is written while it grows, so that streaming stays visible. If it then does not fit, it is erased from the
    line and written on the next one. With `width` None, lines are not broken.
    """

    def __init__(self, width: int | None) -> None:
        self._width = width - 1 if width is not None and width > 8 else None
        self._column = 0
        self._word = ""

    def feed(self, text: str) -> str:
        """Return what to write for the next piece of text."""
        if self._width is None:
            return text
        return "".join(self._put(char, self._width) for char in text)

    def _put(self, char: str, width: int) -> str:
        if char == "\n":
            self._column, self._word = 0, ""
            return char
        columns = cells(char) if char != "\t" else 8 - self._column % 8
        if char in " \t":
            self._word = ""
            if self._column + columns > width:
                self._column = 0
                return "\n"  # the space at the end of the line becomes the break
            self._column += columns
            return char
        if self._column + columns <= width:
            self._word += char
            self._column += columns
            return char
        return self._break(char, columns)

    def _break(self, char: str, columns: int) -> str:
        word, moved = self._word, cells(self._word)
        if moved >= self._column or columns == 2:  # one word fills the line, or the script has no spaces
            self._word, self._column = char, columns
            return f"\n{char}"
        self._word, self._column = word + char, moved + columns
        return f"\x1b[{moved}D\x1b[K\n{word}{char}" if moved else f"\n{char}"
