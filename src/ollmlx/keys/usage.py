"""Requests and tokens of each key by day, kept in the state folder so that a restart forgets none of today's."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple

from ollmlx.errors import StorageError
from ollmlx.settings.files import private_file

logger = logging.getLogger(__name__)

FILE = "usage.json"
DAYS = 31
"""Days that are kept."""
SAVE_INTERVAL = 10.0
"""Seconds between two writes at least, however many requests there are."""


class Used(NamedTuple):
    """The requests and the tokens of one key on one day."""

    requests: int = 0
    tokens: int = 0


def local_now() -> datetime:
    """Return the time here: a day begins at the midnight of this machine."""
    return datetime.now().astimezone()


class Usage:
    """The use of all keys: day -> name -> `Used`. `now`: the local time."""

    def __init__(self, state: Path, now: Callable[[], datetime] = local_now) -> None:
        self._state = state
        self._now = now
        self._days: dict[str, dict[str, Used]] = {}
        self._changed = False
        self._told = ""
        """The reason why it was not saved the last time."""

    def load(self) -> None:
        """Read what was saved. A file that cannot be read is logged, and counting begins anew."""
        file = self._state / FILE
        try:
            self._days = _parsed(file.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            logger.warning("the use of keys is counted anew: %s cannot be read: %s", file, error)

    def add(self, name: str, *, requests: int = 0, tokens: int = 0) -> None:
        """Count for today."""
        day = self._days.setdefault(self._today, {})
        one = day.get(name, Used())
        day[name] = Used(one.requests + requests, one.tokens + tokens)
        self._changed = True

    def today(self, name: str) -> Used:
        """Return the use of a key since midnight."""
        return self._days.get(self._today, {}).get(name, Used())

    def days(self) -> dict[str, dict[str, Used]]:
        """Return a copy of the use of each day, the newest first."""
        newest_first = sorted(self._days.items(), key=lambda item: item[0], reverse=True)
        return {day: dict(keys) for day, keys in newest_first}

    def until_midnight(self) -> float:
        """Return the seconds until the day ends."""
        now = self._now()
        midnight = datetime.combine(now.date() + timedelta(days=1), time(), now.tzinfo)
        return (midnight - now).total_seconds()

    def save(self) -> None:
        """Write it, if anything changed. Blocks. The reason why it cannot be written is logged once."""
        if not self._changed:
            return
        self._changed = False
        kept = dict(list(self.days().items())[:DAYS])
        try:
            partial = private_file(self._state, f"{FILE}.new")
            partial.write_text(json.dumps(kept), "utf-8")
            partial.replace(self._state / FILE)
            self._told = ""
        except (OSError, StorageError) as error:
            self._changed = True
            reason = error.message if isinstance(error, StorageError) else str(error.strerror)
            if reason != self._told:
                logger.warning("the use of keys is not saved, and a restart forgets it: %s", reason)
            self._told = reason

    @property
    def _today(self) -> str:
        return self._now().date().isoformat()


def _parsed(data: bytes) -> dict[str, dict[str, Used]]:
    try:
        return {
            str(day): {str(name): Used(int(requests), int(tokens)) for name, (requests, tokens) in keys.items()}
            for day, keys in json.loads(data).items()
        }
    except (AttributeError, TypeError) as error:
        raise ValueError(f"it is not a table of days: {error}") from error
