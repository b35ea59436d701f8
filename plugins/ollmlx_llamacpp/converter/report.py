"""Progress of the converter: a `PullProgress` a line on standard output, not more often than a person can see."""

from __future__ import annotations

import sys
import time
from typing import Final

from ollmlx.types import PullProgress

INTERVAL: Final = 0.1
"""Seconds between two lines of one step."""


class ConversionReport:
    """Writes progress in bytes."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, status: str, total: int, completed: int) -> None:
        if time.monotonic() >= self._next or completed == total:
            self._next = time.monotonic() + INTERVAL
            line = PullProgress(status=status, total=total, completed=completed).model_dump_json(exclude_none=True)
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
