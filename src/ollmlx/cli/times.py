"""Times and durations as people say them. Pure: the present moment is an argument."""

from __future__ import annotations

import re
from datetime import datetime

_STEPS = (
    ("year", 365 * 86400),
    ("month", 30 * 86400),
    ("week", 7 * 86400),
    ("day", 86400),
    ("hour", 3600),
    ("minute", 60),
)
_FAR = 100 * 365 * 86400  # `keep_alive: -1` travels as a date centuries away
_FRACTION = re.compile(r"\.(\d{6})\d+")


def parse_time(text: str) -> datetime:
    """A RFC 3339 time; fractions beyond microseconds, as Go writes them, are cut."""
    return datetime.fromisoformat(_FRACTION.sub(r".\1", text.replace("Z", "+00:00")))


def ago(text: str, now: datetime) -> str:
    """`2 days ago`, `Less than a second ago`; `Never` for no time."""
    if not text:
        return "Never"
    seconds = (now - parse_time(text)).total_seconds()
    return f"{about(seconds)} ago" if seconds >= 0 else f"{about(-seconds)} from now"


def until(text: str, now: datetime) -> str:
    """`4 minutes from now`, `Forever`, or `Stopping...` for a moment that has passed."""
    if not text:
        return "Forever"
    seconds = (parse_time(text) - now).total_seconds()
    if seconds > _FAR:
        return "Forever"
    return f"{about(seconds)} from now" if seconds > 0 else "Stopping..."


def about(seconds: float) -> str:
    """A duration in its largest unit: `About a minute`, `3 hours`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    for unit, size in _STEPS:
        if whole >= 2 * size or (size >= 86400 and whole >= size):
            count = whole // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
        if whole >= size:
            return "About an hour" if unit == "hour" else f"About a {unit}"
    return f"{whole} second{'s' if whole > 1 else ''}"


def spent(nanoseconds: int) -> str:
    """A measured duration: `1m2.3s`, `812.4ms`, `35µs`."""
    seconds = nanoseconds / 1e9
    if seconds >= 60:
        return f"{int(seconds // 60)}m{seconds % 60:.1f}s"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.4g}{unit}"
    return f"{seconds * 1e6:.0f}µs" if seconds else "0s"
