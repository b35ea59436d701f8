"""A spinner on standard error while a person waits for the first word."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from ollmlx.cli import terminal


class Spinner:
    """Turns until `stop`; shows nothing where nobody looks at a terminal with colours."""

    def __init__(self, *, visible: bool = True) -> None:
        self._visible = visible and terminal.has_colour(sys.stderr)
        self._status: Any = None

    def __enter__(self) -> Self:
        if self._visible:
            from rich.console import Console

            self._status = Console(stderr=True).status("", spinner="dots")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """The wait is over; may be called again."""
        if self._status is not None:
            self._status.stop()
            self._status = None
