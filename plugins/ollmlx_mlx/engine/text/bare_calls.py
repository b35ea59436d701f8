"""Tool calls without markers: models such as Llama 3 answer with nothing but the JSON of a call."""

from __future__ import annotations

from typing import Final

PYTHON_TAG: Final = "<|python_tag|>"


class BareCalls:
    """Holds an answer back that looks like JSON from its first character on; `held` is what it holds."""

    def __init__(self) -> None:
        self.held = ""
        self._open = True

    def feed(self, text: str) -> str:
        """The text that is certainly not a call."""
        if not self._open:
            return text
        self.held += text
        start = bare_call(self.held)
        if not start or start[0] in "{[" or PYTHON_TAG.startswith(start):
            return ""
        self._open = False
        text, self.held = self.held, ""
        return text


def bare_call(text: str) -> str:
    """The JSON of a call, without what models write before it."""
    return text.strip().removeprefix(PYTHON_TAG).strip()
