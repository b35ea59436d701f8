"""The output of a process: read for ever, kept in bounded memory, logged at a bounded rate."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable

MAX_LINES = 200
MAX_LINE = 4 * 1024
BURST = 100
LINES_PER_SECOND = 20.0

_ANSI = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ERROR = re.compile(
    r"^(?:[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b|Fatal Python error|\[METAL\]|CUDA error|panic:|error:)"
)
_LOGGED = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL) \[([^\]]*)\] ")
"""A line that `ollmlx.runner.startup` wrote in a runner, with the id of its request."""
_ROUTINE = re.compile(r"^(?:DEBUG|INFO)\b")
_NOISE = re.compile(r"^(?:\s|Extension modules:|Traceback|Current thread|Thread 0x|  File )")


class OutputTail:
    """Lines of one process's stdout and stderr. Fed from the event loop; never blocks, never grows without bound."""

    def __init__(self, name: str, logger: logging.Logger, monotonic: Callable[[], float]) -> None:
        self._logger = logger
        self._name = name
        self._monotonic = monotonic
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._partial: dict[int, bytearray] = {}
        self._allowance = float(BURST)
        self._allowed_at = monotonic()
        self._suppressed = 0
        self._level = logging.INFO
        self._request: str | None = None
        """The request of lines that name none. None: the request of the running task."""
        self._about: str | None = None
        self._loaded_at = 0
        self.total = 0
        """Lines since the start. Any output makes it grow, which counts as progress of a load."""

    def feed(self, stream: int, data: bytes) -> None:
        """Add the bytes that arrived on a stream (1 stdout, 2 stderr)."""
        *lines, rest = data.split(b"\n")
        partial = self._partial.setdefault(stream, bytearray())
        if lines:
            lines[0] = bytes(partial) + lines[0]
            partial.clear()
            self._take(lines)
        room = MAX_LINE - len(partial)
        if room > 0:
            partial += rest[:room]

    def end(self) -> None:
        """Count unfinished lines as lines, because no more output will come."""
        for partial in self._partial.values():
            if partial:
                self._take([bytes(partial)])
                partial.clear()
        if self._suppressed:
            self._logger.info("%s | (%d lines left out)", self._name, self._suppressed)
            self._suppressed = 0

    def last_lines(self, count: int = 12) -> tuple[str, ...]:
        """Return the last lines that are not blank."""
        return tuple(line for line in self._lines if line.strip())[-count:]

    def mark_loaded(self) -> None:
        """Note that the model is loaded: lines before this one never explain a later exit.

        Before, lines belong to the request that caused the load; afterwards to the request that they name.
        """
        self._loaded_at = self.total
        self._request = self._about = ""

    def likely_cause(self) -> str | None:
        """Return the line that most likely explains an exit.

        That is the last line, or, when a stack dump ends the output, the last line that names an error.
        """
        since = self.total - self._loaded_at
        recent = list(self._lines)[-since:] if since else []
        lines = [line for line in recent if line.strip() and not _ROUTINE.match(line)]
        if not lines or not _NOISE.match(lines[-1]):
            return lines[-1] if lines else None
        for pattern, wanted in ((_ERROR, True), (_NOISE, False)):
            for line in reversed(lines):
                if bool(pattern.match(line)) is wanted:
                    return line
        return lines[-1].strip()

    def _take(self, lines: list[bytes]) -> None:
        self.total += len(lines)
        logged = self._allow(len(lines))
        for line in lines[:logged]:
            self._log(clean(line))
        self._suppressed += len(lines) - logged
        self._lines.extend(map(clean, lines[-MAX_LINES:]))

    def _allow(self, wanted: int) -> int:
        now = self._monotonic()
        self._allowance = min(float(BURST), self._allowance + (now - self._allowed_at) * LINES_PER_SECOND)
        self._allowed_at = now
        granted = min(wanted, int(self._allowance))
        self._allowance -= granted
        return granted

    def _log(self, text: str) -> None:
        if self._suppressed:
            self._logger.info("%s | (%d lines left out)", self._name, self._suppressed)
            self._suppressed = 0
        level, request = self._classify(text)
        extra = {"runner": self._name} | ({} if request is None else {"request": request})
        self._logger.log(level, "%s | %s", self._name, text, extra=extra)

    def _classify(self, text: str) -> tuple[int, str | None]:
        """Return the level of a line and its request. The lines of a stack have those of the line above them."""
        if logged := _LOGGED.match(text):
            self._level = logging.getLevelNamesMapping()[logged[1]]
            self._about = self._request if logged[2] == "-" else logged[2]
        elif _ERROR.match(text):
            self._level = logging.ERROR
        elif not _NOISE.match(text):
            self._level, self._about = logging.INFO, self._request
        return self._level, self._about


def clean(raw: bytes) -> str:
    """Return a line without control characters, escape sequences or bad bytes, cut at MAX_LINE."""
    text = raw[:MAX_LINE].decode("utf-8", "replace")
    return _CONTROL.sub("", _ANSI.sub("", text)).rstrip()
