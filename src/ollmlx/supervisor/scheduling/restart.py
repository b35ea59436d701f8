"""When to start a failed runner again: jittered back-off, and a circuit that opens after too many failures. Pure."""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field

from ollmlx.supervisor.tuning import Tuning

BASE = 1.0
CAP = 60.0
STABLE = 60.0
"""Seconds of good service after which earlier failures no longer lengthen the pause."""


def backoff(failures: int, rng: random.Random) -> float:
    """Seconds to wait before the next start: none after the first failure, then full jitter, doubling."""
    if failures < 2:
        return 0.0
    return rng.uniform(0.0, min(CAP, BASE * 2.0 ** (failures - 1)))


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a start may be tried: at once, after `wait` seconds, or not for `closed_for` seconds."""

    wait: float = 0.0
    closed_for: float = 0.0

    @property
    def open(self) -> bool:
        return self.wait <= 0 and self.closed_for <= 0


@dataclass(slots=True)
class Circuit:
    """Failures of one launch key. All times are monotonic seconds that the caller passes in."""

    tuning: Tuning
    rng: random.Random
    failures: deque[float] = field(default_factory=deque)
    consecutive: int = 0
    not_before: float = -math.inf
    closed_until: float = -math.inf
    permanent: bool = False
    """The last failure was one that repeating cannot cure."""

    def failed(self, now: float, *, permanent: bool = False) -> None:
        """Count a failure; open the circuit when there were too many, or when trying again is pointless."""
        self.failures.append(now)
        self.consecutive += 1
        self._forget(now)
        self.permanent = permanent
        self.not_before = now + backoff(self.consecutive, self.rng)
        if permanent or len(self.failures) >= self.tuning.restart_limit:
            self.closed_until = now + self.tuning.restart_pause

    def served(self, now: float, ready_since: float) -> None:
        """A request was completed on a runner that has been ready since then."""
        if now - ready_since >= STABLE:
            self.consecutive = 0

    def gate(self, now: float) -> Gate:
        """May a runner be started now? After the pause of an open circuit one start is let through."""
        if now < self.closed_until:
            return Gate(closed_for=self.closed_until - now)
        if self.permanent or len(self.failures) >= self.tuning.restart_limit:
            # Half open: one more failure closes it again for the whole pause.
            self.permanent = False
            while len(self.failures) >= self.tuning.restart_limit:
                self.failures.popleft()
        return Gate(wait=max(0.0, self.not_before - now))

    def reset(self) -> None:
        """Forget everything: somebody says that the cause is gone."""
        self.failures.clear()
        self.consecutive = 0
        self.not_before = self.closed_until = -math.inf
        self.permanent = False

    def _forget(self, now: float) -> None:
        while self.failures and now - self.failures[0] > self.tuning.restart_window:
            self.failures.popleft()
