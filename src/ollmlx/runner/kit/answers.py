"""From generated pieces to an answer: stop strings and runaway repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

REPEAT_LIMIT: Final = 30
"""Repetitions of one token after which a model counts as stuck, as in Ollama."""


class StopFilter:
    """Passes text up to the first stop string, wherever the token borders fall; no part of a stop string is passed.

    Text that could still become a stop string is held back until that is decided. Empty stop strings are ignored.
    `hit` is the stop string that was found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit: str | None = None

    def feed(self, text: str) -> str:
        """Return the text that is safe to show. It is always empty after a hit."""
        if self.hit is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(at, -len(stop), stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, _, self.hit = min(found)
            self._held = ""
            return text[:at]
        keep = self._undecided(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return the text that was held back, at the end of the stream."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """Return the length of the longest end of the text that a stop string begins with."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest


class RepeatGuard:
    """Notices a model that repeats one token without end. Tokens that differ only in surrounding space count as one."""

    def __init__(self) -> None:
        self._last = ""
        self._last_token = -1
        self._count = 0

    @property
    def runaway(self) -> bool:
        """True when the same token came more than `REPEAT_LIMIT` times in a row."""
        return self._count > REPEAT_LIMIT

    def add(self, token: int, text: str) -> None:
        """Count one token and its text, which may be empty."""
        stripped = text.strip()
        same = token == self._last_token or (bool(stripped) and stripped == self._last)
        self._count = self._count + 1 if same else 0
        self._last_token = token
        self._last = stripped or self._last
