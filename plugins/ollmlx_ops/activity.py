"""Requests in flight, samples of the last hour and the end of the log, for the web page."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ollmlx.web import RequestContext

EVERY = 10.0
"""Seconds between two samples."""
KEPT = 360
"""Samples that are kept: an hour."""


@dataclass(eq=False)
class Activity:
    """Samples what the daemon does. `queue`: how many requests wait; `memory`: the bytes of all runners."""

    queue: Callable[[], int]
    memory: Callable[[], int]
    running: Callable[[], Iterable[RequestContext]] = tuple
    """The requests that are being served."""
    samples: deque[tuple[float, float, float | None, int, int]] = field(default_factory=lambda: deque(maxlen=KEPT))
    """Unix time, tokens a second, milliseconds to the first token or None, queue, bytes of all runners."""
    _generated: int = 0
    """Tokens of the requests that have ended."""
    _sampled: int = 0
    _ended: list[RequestContext] = field(default_factory=list)
    _since: int = field(default_factory=time.monotonic_ns)

    def count(self, request: RequestContext) -> None:
        """Count a request that has ended."""
        self._generated += max(request.pieces, request.done.generated_tokens if request.done else 0)
        if request.first_ns:
            self._ended.append(request)

    async def keep(self) -> None:
        """Take a sample every few seconds, without end."""
        while True:
            await asyncio.sleep(EVERY)
            self.sample(time.time())

    def sample(self, now: float) -> None:
        """Add what happened since the last sample."""
        running = tuple(self.running())
        generated = self._generated + sum(request.pieces for request in running)
        rate = max(0, generated - self._sampled) / EVERY
        answering = [request for request in (*self._ended, *running) if request.first_ns]
        firsts = [one.first_ns / 1e6 for one in answering if one.started_ns + one.first_ns > self._since]
        first = sum(firsts) / len(firsts) if firsts else None
        self.samples.append((now, rate, first, self.queue(), self.memory()))
        self._sampled, self._ended, self._since = generated, [], time.monotonic_ns()

    def history(self) -> dict[str, Any]:
        """Return the samples by column, the oldest first."""
        names = ("time", "tokens_per_second", "first_token_ms", "queue", "memory")
        columns = zip(*self.samples, strict=True) if self.samples else [()] * len(names)
        return {"every": EVERY, **{name: list(column) for name, column in zip(names, columns, strict=True)}}


def in_flight(request: RequestContext) -> dict[str, Any]:
    """Return a request that is being served: its client, its model, and how far it is."""
    passed = time.monotonic_ns() - request.started_ns
    answering = (passed - request.first_ns) / 1e9 if request.first_ns else 0.0
    prefill = request.prefill
    return {
        "id": request.id,
        "client": request.client,
        "model": request.model,
        "route": request.route,
        "priority": request.priority,
        "state": "answering" if request.first_ns else "reading" if request.admitted else "waiting",
        "seconds": round(passed / 1e9, 3),
        "prompt": prefill and prefill.model_dump(include={"done", "total", "cached"}),
        "tokens": request.pieces,
        "tokens_per_second": round(request.pieces / answering, 1) if answering else 0.0,
        "missed": request.missed[0] if request.missed else "",
    }


FILE = "logs/daemon.log"  # in the state folder
READ = 512 * 1024
"""Bytes at the end of the file that are searched for lines."""


def last_lines(file: Path, count: int, words: str = "") -> list[str]:
    """Return at most `count` lines at the end of the file that contain the words; nothing when there is no file."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - READ))
            lines = stream.read(READ).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    whole = lines if size <= READ else lines[1:]  # the first one may have lost its beginning
    return [line for line in whole if words in line][-count:]
