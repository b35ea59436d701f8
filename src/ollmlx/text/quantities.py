"""Durations in the notation of Go and Ollama, and sizes in bytes: parsing and formatting."""

from __future__ import annotations

import math
import re

FOREVER = math.inf

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PIECE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def parse_duration(value: float | str) -> float:
    """Return the seconds of a number or of a Go duration (`5m`, `1h30m`, `-1m`, `300`). Negative means no limit.

    Raises ValueError for anything else.
    """
    if isinstance(value, bool):
        raise ValueError(f"invalid duration {value!r}")  # noqa: TRY004 - pydantic turns a ValueError into a fault
    seconds = float(value) if isinstance(value, int | float) else _parse_text(value.strip())
    if math.isnan(seconds):
        raise ValueError("invalid duration: not a number")
    return FOREVER if seconds < 0 else seconds


def _parse_text(text: str) -> float:
    if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text):
        return float(text)
    sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text)
    if not digits or "".join(match.group(0) for match in _PIECE.finditer(digits)) != digits:
        raise ValueError(f"invalid duration {text!r}: write 300, '5m' or '1h30m'")
    return sign * sum(float(number) * _UNITS[unit] for number, unit in _PIECE.findall(digits))


def format_duration(seconds: float) -> str:
    """Return the shortest Go notation of a duration, and `-1` for one without limit."""
    if math.isinf(seconds):
        return "-1"
    if seconds != int(seconds):
        return f"{seconds:g}s"
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n) or "0s"


def write_size(size: int) -> int | str:
    """Return a size as `4GiB` or `100MiB` where that is exact, else the number of bytes."""
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return size


def parse_size(value: int | str) -> int:
    """Return the bytes of an integer or of text such as `8GiB`, `500 MB`, `12g`. `GB` is 10^9, `GiB` and `g` are 2^30.

    Raises ValueError for anything else.
    """
    if isinstance(value, bool) or (isinstance(value, int) and value < 0):
        raise ValueError(f"invalid size {value!r}")
    if isinstance(value, int):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"invalid size {value!r}: write '8GiB', '500MB' or a number of bytes")
    number, prefix, binary = match.groups()
    decimal = value.strip().lower().endswith("b") and not binary
    size = float(number) * (1000 if decimal else 1024) ** " kmgt".index(prefix.lower() or " ")
    if math.isinf(size):
        raise ValueError("invalid size: too large a number")
    return int(size)


def format_size(size: float) -> str:
    """Return a size for people, decimal as in Ollama: `270 MB`, `2.0 GB`."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if abs(size) >= factor:
            shown = size / factor
            return f"{shown:.0f} {unit}" if shown >= 10 else f"{shown:.1f} {unit}"
    return f"{size:.0f} B"


def format_count(number: int) -> str:
    """Return a number of parameters in Ollama's notation: `134.52M`, `3.2B`, `70B`."""
    for unit, factor, decimals in (("B", 10**9, 1), ("M", 10**6, 2), ("K", 10**3, 0)):
        if number >= factor:
            return f"{number / factor:.{0 if number % factor == 0 else decimals}f}{unit}"
    return str(number)
