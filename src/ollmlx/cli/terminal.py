"""Properties of the standard streams, and the messages that are shown there besides the answer."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, Self, TextIO

from ollmlx.errors import OllmlxError
from ollmlx.text.controls import escape_text

_ASCII = str.maketrans({"✓": "+", "✗": "x", "…": "...", "·": "-", "→": "->", "“": '"', "”": '"', "’": "'"})


def is_terminal(stream: TextIO | None) -> bool:
    """Return True if a stream is a terminal; False for a closed stream."""
    return stream is not None and not stream.closed and stream.isatty()


def has_colour(stream: TextIO) -> bool:
    """Return True if styles may be used: on a terminal that is not dumb, without NO_COLOR."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width(stream: TextIO) -> int | None:
    """Return the columns of a terminal; None if the stream is not one."""
    import shutil  # imported when used: it costs start-up time

    return shutil.get_terminal_size().columns if is_terminal(stream) else None


def grey(text: str, stream: TextIO) -> str:
    """Return a text in grey where colours may be used."""
    return f"\x1b[90m{text}\x1b[0m" if has_colour(stream) and text else text


def note(text: str) -> None:
    """Print a message that is not part of the answer. It may quote a stranger: control characters are escaped."""
    print(escape_text(text), file=sys.stderr, flush=True)


def say(text: str, *, flush: bool = False) -> None:
    """Print an answer. On a terminal, control characters of models and requests are shown instead of obeyed."""
    print(plain(escape_text(text) if is_terminal(sys.stdout) else text, sys.stdout), flush=flush)


def plain(text: str, stream: TextIO | None) -> str:
    """Return a text as a stream can write it: signs that its encoding lacks become ASCII, other letters are escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if "utf" not in encoding.lower():
        text = text.translate(_ASCII)
    return text.encode(encoding, "backslashreplace").decode(encoding)


@contextmanager
def output_kept() -> Iterator[None]:
    """Keep standard output for the answer: what other code prints in the meantime goes to standard error."""
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed
        yield
        return
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def report(error: OllmlxError) -> None:
    """Print a failure: a line for the message, one for the next step, one for the runbook."""
    note(f"Error: {error.message}")
    if error.hint:
        note(f"  hint: {error.hint}")
    if error.code:
        note(f"  more: ollmlx doctor --explain {error.code}")


@contextmanager
def unechoed(stream: TextIO) -> Iterator[None]:
    """Do not show what is typed before the next prompt, so that it does not appear in the middle of an answer."""
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


class Spinner:
    """A spinner on standard error until `stop`; invisible unless standard error is a terminal with colours."""

    def __init__(self, *, visible: bool = True) -> None:
        self._visible = visible and has_colour(sys.stderr)
        self._status: Any = None

    def __enter__(self) -> Self:
        if self._visible:
            from rich.console import Console

            self._status = Console(stderr=True).status("", spinner="dots")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the spinner; may be called again."""
        if self._status is not None:
            self._status.stop()
            self._status = None
