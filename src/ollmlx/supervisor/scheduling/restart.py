"""When a model whose runner failed may be started again: a growing pause, and a stop for crash loops. Pure.

A runner that exits after it has answered is replaced: the first time at once, then after a pause that doubles up to
`LONGEST_PAUSE` and that a minute of health resets. A crash loop is several failures in a row of which none came after
an answer; such a model, and one whose failure no repetition can cure, is not started for `restart_pause` seconds.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field

from ollmlx.errors import OllmlxError, RunnerUnavailable
from ollmlx.supervisor.runner.failure import Remedy, RunnerFailure
from ollmlx.supervisor.tuning import Tuning
from ollmlx.text.quantities import format_duration
from ollmlx.types import RunnerInfo

FIRST_PAUSE = 0.5
"""Longest pause, in seconds, after the second failure. It doubles with each further one."""
LONGEST_PAUSE = 30.0
HEALTHY_AFTER = 60.0
"""Seconds after which a loaded runner counts as healthy: its earlier failures no longer lengthen the pause."""


def pause_after(failures: int, rng: random.Random) -> float:
    """Return the seconds before the next start: 0 after the first failure, then doubling, with full jitter."""
    if failures < 2:
        return 0.0
    return rng.uniform(0.0, min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 2, 16)))


@dataclass(slots=True)
class FailureHistory:
    """The failures of one launch key. Times are monotonic seconds that the caller passes in."""

    name: str
    tuning: Tuning
    rng: random.Random
    consecutive: int = 0
    """Failures since the last minute of health."""
    unanswered: deque[float] = field(default_factory=deque)
    """Times of the failures since the last answer."""
    not_before: float = -math.inf
    refused_until: float = -math.inf
    incurable: bool = False
    """No repetition can cure the last failure."""
    failure: RunnerFailure | None = None
    info: RunnerInfo | None = None
    failed_at: float = -math.inf
    restarts: int = 0

    def add(self, now: float, failure: RunnerFailure, *, answered: bool, healthy_for: float) -> None:
        """Count a failure. `answered`: the runner had answered a request; `healthy_for`: seconds since its load."""
        if healthy_for >= HEALTHY_AFTER:
            self.consecutive = 0
        self.consecutive += 1
        self.failure, self.failed_at = failure, now
        self.restarts += not failure.loading
        self.not_before = now + pause_after(self.consecutive, self.rng)
        self.incurable = failure.remedy is Remedy.NONE and not answered
        if answered:
            self.unanswered.clear()
        else:
            self.unanswered.append(now)
            while now - self.unanswered[0] > self.tuning.restart_window:
                self.unanswered.popleft()
        if self.incurable or len(self.unanswered) >= self.tuning.restart_limit:
            self.refused_until = now + self.tuning.restart_pause

    def answer(self) -> None:
        """Note an answer: the failures so far are no crash loop."""
        self.unanswered.clear()

    def pause(self, now: float) -> float:
        """Return the seconds until a start may be tried. After `refused_until`, one start is tried.

        Raises the error for a request that arrives while the model may not be started.
        """
        if now < self.refused_until:
            raise self._refusal(self.refused_until - now)
        self.incurable = False
        while len(self.unanswered) >= self.tuning.restart_limit:  # one more failure makes it a crash loop again
            self.unanswered.popleft()
        return max(0.0, self.not_before - now)

    def _refusal(self, seconds: float) -> OllmlxError:
        assert self.failure is not None
        if self.incurable:
            error = self.failure.error(self.name)
            error.retry_after = seconds
            error.hint = f"fix the cause, then: ollmlx stop {self.name}"
            return error
        limit, window = self.tuning.restart_limit, self.tuning.restart_window
        failed = f"{self.name} failed {limit} {'time' if limit == 1 else 'times'}"
        within = f" within {format_duration(window)}" if window < math.inf else ""
        again = "it is not tried again"
        if seconds < math.inf:
            again = f"it is tried again in {format_duration(math.ceil(seconds))}"
        return RunnerUnavailable(
            f"{failed}{within}; {again}. Last cause: {self.failure.sentence(self.name)}",
            code="RUN006",
            hint=f"ollmlx stop {self.name} lets it be tried at once",
            retry_after=seconds,
        )


@dataclass(slots=True)
class RestartPolicy:
    """The failures of all models, by launch key."""

    tuning: Tuning
    rng: random.Random = field(default_factory=random.Random)
    _histories: dict[str, FailureHistory] = field(default_factory=dict)

    def record(
        self, key: str, name: str, now: float, failure: RunnerFailure, info: RunnerInfo,
        *, answered: bool = False, healthy_for: float = 0.0,
    ) -> None:  # fmt: skip
        """Note that a start failed, or that a loaded runner exited. `info` is shown until the model is loaded again."""
        history = self._histories.setdefault(key, FailureHistory(name, self.tuning, self.rng))
        history.name, history.info = name, info
        history.add(now, failure, answered=answered, healthy_for=healthy_for)

    def loaded(self, key: str) -> None:
        """Note that the model is loaded again: its failure is no longer shown."""
        if key in self._histories:
            self._histories[key].info = None

    def answered(self, key: str) -> None:
        """Note that a runner of this key answered a request."""
        if key in self._histories:
            self._histories[key].answer()

    def pause(self, key: str, now: float) -> float:
        """Return the seconds until a start may be tried. Raises the refusal while it may not."""
        history = self._histories.get(key)
        return 0.0 if history is None else history.pause(now)

    def restarts(self, key: str) -> int:
        """Return how often a loaded runner of this key exited without being asked."""
        history = self._histories.get(key)
        return history.restarts if history is not None else 0

    def forget(self, key: str) -> None:
        """Forget the failures of a model, so that it may be started at once."""
        self._histories.pop(key, None)

    def shown(self, now: float) -> list[RunnerInfo]:
        """Return the models that failed recently and are not loaded again."""
        recent = max(self.tuning.restart_window, self.tuning.restart_pause)
        return [one.info for one in self._histories.values() if one.info is not None and now - one.failed_at <= recent]
