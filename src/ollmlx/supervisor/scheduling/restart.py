"""When a model whose runner failed may be started again. Pure.

A runner that exits is replaced at once. After each further failure there is a pause, which doubles up to
`LONGEST_PAUSE` and which a minute of health resets. A crash loop is several failures in a row before any answer: its
requests do not wait for the end of the pause, but are refused. A failure that no repetition can cure has a long pause.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ollmlx.errors import OllmlxError, RunnerUnavailable
from ollmlx.supervisor.runner.failure import Remedy, RunnerFailure
from ollmlx.text.quantities import format_duration
from ollmlx.types import RunnerInfo

FIRST_PAUSE = 0.5
"""Seconds after the second failure. It doubles with each further one."""
LONGEST_PAUSE = 30.0
INCURABLE_PAUSE = 600.0
"""Seconds after a failure that the same start would meet again. `ollmlx stop` ends it."""
HEALTHY_AFTER = 60.0
"""Seconds after which a loaded runner counts as healthy: its earlier failures no longer lengthen the pause."""
CRASH_LOOP = 3
"""Failures in a row, each before the runner answered anything, that make a crash loop."""
SHOWN_FOR = 600.0
"""Seconds for which a failure is shown while the model is not loaded again."""


def pause_after(failures: int) -> float:
    """Return the seconds before the next start: 0 after the first failure, then doubling."""
    return 0.0 if failures < 2 else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 2, 16))


@dataclass(slots=True)
class FailureHistory:
    """The failures of one launch key. Times are monotonic seconds that the caller passes in."""

    consecutive: int = 0
    """Failures since the last minute of health."""
    unanswered: int = 0
    """Failures since the last answer."""
    not_before: float = -math.inf
    incurable: bool = False
    """No repetition can cure the last failure."""
    failure: RunnerFailure | None = None
    failed_at: float = -math.inf
    restarts: int = 0
    """Exits of a loaded runner that were not asked for."""
    info: RunnerInfo | None = None
    """The failed runner, until the model is loaded again."""

    def add(self, now: float, failure: RunnerFailure, *, answered: bool = False, healthy_for: float = 0.0) -> None:
        """Count a failure. `answered`: the runner had answered a request; `healthy_for`: seconds since its load."""
        self.consecutive = 1 if healthy_for >= HEALTHY_AFTER else self.consecutive + 1
        self.unanswered = 0 if answered else self.unanswered + 1
        self.failure, self.failed_at = failure, now
        self.restarts += not failure.loading
        self.incurable = failure.remedy is Remedy.NONE and not answered
        self.not_before = now + (INCURABLE_PAUSE if self.incurable else pause_after(self.consecutive))

    def pause(self, now: float, model: str) -> float:
        """Return the seconds that a request has to wait before a start. Raises its refusal instead in a crash loop."""
        seconds = max(0.0, self.not_before - now)
        if seconds and (self.incurable or self.unanswered >= CRASH_LOOP):
            raise self._refusal(seconds, model)
        return seconds

    def _refusal(self, seconds: float, model: str) -> OllmlxError:
        assert self.failure is not None
        if self.incurable:
            error = self.failure.error(model)
            error.retry_after = seconds
            error.hint = f"fix the cause, then: ollmlx stop {model}"
            return error
        return RunnerUnavailable(
            f"{model} failed {self.unanswered} times before it answered a request; it is tried again in "
            f"{format_duration(math.ceil(seconds))}. Last cause: {self.failure.sentence(model)}",
            code="RUN006",
            hint=f"ollmlx stop {model} lets it be tried at once",
            retry_after=seconds,
        )
