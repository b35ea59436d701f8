"""What standard output and standard error are connected to, and what that permits."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads or types here. A closed stream is nobody."""
    return stream is not None and not stream.closed and stream.isatty()


def has_colour(stream: TextIO) -> bool:
    """Whether styles may be used: a terminal that is not dumb, and no NO_COLOR."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width(stream: TextIO) -> int | None:
    """The terminal's columns; None where lines need not fit anything."""
    return shutil.get_terminal_size().columns if is_terminal(stream) else None


def grey(text: str, stream: TextIO) -> str:
    """Text that stands back, where colours are possible."""
    return f"\x1b[90m{text}\x1b[0m" if has_colour(stream) and text else text


@contextmanager
def unechoed(stream: TextIO) -> Iterator[None]:
    """What is typed ahead stays off the screen until somebody reads it, and does not stand within an answer."""
    if not is_terminal(stream):
        yield
        return
    import termios

    number = stream.fileno()
    before = termios.tcgetattr(number)
    quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(number, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def note(text: str) -> None:
    """Tell the person something that is not the answer."""
    print(text, file=sys.stderr, flush=True)
