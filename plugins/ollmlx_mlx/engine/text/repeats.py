"""Notices a model that has got stuck on one token."""

from __future__ import annotations

_LIMIT = 30


class RepeatGuard:
    """More than 30 times the same token, as Ollama counts, or the same token as text without the space around it."""

    def __init__(self) -> None:
        self._last = ""
        self._last_token = -1
        self._count = 0

    @property
    def runaway(self) -> bool:
        """Whether the limit has been passed."""
        return self._count > _LIMIT

    def add(self, token: int, text: str) -> None:
        """Count one token and the text that came with it (which may be empty)."""
        stripped = text.strip()
        same = token == self._last_token or (bool(stripped) and stripped == self._last)
        self._count = self._count + 1 if same else 0
        self._last_token = token
        self._last = stripped or self._last
