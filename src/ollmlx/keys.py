"""Named API keys, `[security.keys.NAME]`: which models each may use, how much a day, and how much it has used."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable
from datetime import datetime, time, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from ollmlx.errors import Forbidden, LimitReached, StorageError
from ollmlx.model.names import ModelName
from ollmlx.settings.files import private_file
from ollmlx.settings.model import KeySettings, SecuritySettings
from ollmlx.text.quantities import format_duration

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


SOON = 1.0
"""Seconds after which a key that has too many requests at once may try again."""
PRIORITIES = ("high", "normal", "low")


class Quotas:
    """Holds requests to the settings of their keys. One of `api_keys` has no name, and no limit but of priority."""

    def __init__(self, security: SecuritySettings, usage: Usage) -> None:
        self.usage = usage
        self.reconfigure(security)
        self._running: Counter[str] = Counter()
        self._seen: set[str] = set()

    def reconfigure(self, security: SecuritySettings) -> None:
        """Use changed settings from the next request on."""
        self._keys = security.keys
        self._highest_unnamed = "normal" if security.api_keys or security.keys else "high"

    def is_named(self, name: str) -> bool:
        """Return True for the name of a key of the settings."""
        return name in self._keys

    def is_first(self, name: str) -> bool:
        """Return True for the name of a key whose first request this is since the daemon started."""
        if name in self._seen or name not in self._keys:
            return False
        self._seen.add(name)
        return True

    def permits(self, name: str, model: ModelName) -> bool:
        """Return True if the key of this name may use a model. One without a list may use all."""
        key = self._keys.get(name)
        return key is None or not key.models or any(_matches(pattern, model) for pattern in key.models)

    def check_model(self, name: str, model: ModelName) -> None:
        """Raise Forbidden when the key of this name may not use a model."""
        if not self.permits(name, model):
            raise Forbidden(f"the API key {name!r} may not use {model.short!r}")

    def priority(self, name: str, asked: str) -> str:
        """Return the priority of a request: what it asks for, and at most what its key has.

        Where keys are in use, one without a name has `normal`.
        """
        asked = asked if asked in PRIORITIES else "normal"
        key = self._keys.get(name)
        highest = self._highest_unnamed if key is None else key.priority
        return PRIORITIES[max(map(PRIORITIES.index, (asked, highest)))]

    def begin(self, name: str) -> None:
        """Count a request that begins. Raises LimitReached with the seconds to wait; then nothing is counted."""
        key = self._keys.get(name)
        if key is not None:
            self._check(name, key)
            self.usage.add(name, requests=1)
        self._running[name] += 1

    def end(self, name: str, tokens: int) -> None:
        """Count the end of a request that began."""
        self._running[name] -= 1
        if not self._running[name]:
            del self._running[name]
        if name in self._keys and tokens:
            self.usage.add(name, tokens=tokens)

    def _check(self, name: str, key: KeySettings) -> None:
        used = self.usage.today(name)
        if 0 < key.concurrent <= self._running[name]:
            raise LimitReached(f"the API key {name!r} may have {key.concurrent} requests at once", retry_after=SOON)
        for what, limit, count in (
            ("requests", key.requests_per_day, used.requests),
            ("tokens", key.tokens_per_day, used.tokens),
        ):
            if 0 < limit <= count:
                wait = self.usage.until_midnight()
                message = f"the API key {name!r} has used its {limit} {what} of today"
                again = format_duration(math.ceil(wait / 60) * 60)  # Ollama's clients show no header
                raise LimitReached(f"{message}; try again in {again}", retry_after=wait)


def _matches(pattern: str, model: ModelName) -> bool:
    """Return True for the same name, and for a pattern with `*` that matches it in its short or its full form."""
    if "*" in pattern:
        return any(fnmatchcase(text.lower(), pattern.lower()) for text in (model.short, str(model)))
    return ModelName.parse(pattern) == model
