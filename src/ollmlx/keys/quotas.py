"""The limits of named keys: models, requests and tokens a day, requests at once, priority."""

from __future__ import annotations

import math
from collections import Counter
from fnmatch import fnmatchcase

from ollmlx.errors import Forbidden, LimitReached
from ollmlx.keys.usage import Usage
from ollmlx.model.names import ModelName
from ollmlx.settings.model import KeySettings, SecuritySettings
from ollmlx.text.quantities import format_duration

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
