"""Times as Ollama writes them: RFC 3339 with a zone."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

FOREVER = timedelta(days=365 * 200)
"""Where "never" is put: far away, and still a date in every client's calendar."""

_second = (0, "")


def now() -> str:
    """This moment, in UTC with microseconds. Called once a token, so the text of the second is kept."""
    global _second  # noqa: PLW0603 - a cache of one
    at = time.time_ns()
    seconds, rest = divmod(at, 1_000_000_000)
    if seconds != _second[0]:
        _second = (seconds, datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S."))
    return f"{_second[1]}{rest // 1000:06d}Z"


def stamp(moment: datetime) -> str:
    """A moment."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def expiry(moment: datetime | None) -> str:
    """When a model leaves; None means never."""
    return stamp(moment if moment is not None else datetime.now(UTC) + FOREVER)
