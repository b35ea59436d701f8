"""The circuits of all models: what failed, how often, and what a request is told while a model may not be started."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

from ollmlx.errors import OllmlxError, RunnerUnavailable
from ollmlx.supervisor.process.exit_status import Remedy
from ollmlx.supervisor.runner.failure import RunnerFailure
from ollmlx.supervisor.scheduling.restart import Circuit
from ollmlx.supervisor.tuning import Tuning
from ollmlx.text.quantities import format_duration
from ollmlx.types import RunnerInfo


@dataclass(slots=True)
class Failure:
    """The last failure of one launch key."""

    name: str
    circuit: Circuit
    death: RunnerFailure | None = None
    info: RunnerInfo | None = None
    at: float = -math.inf
    restarts: int = 0


@dataclass(slots=True)
class Circuits:
    """One for each launch key that ever failed. Times are monotonic seconds."""

    tuning: Tuning
    rng: random.Random = field(default_factory=random.Random)
    _failures: dict[str, Failure] = field(default_factory=dict)

    def failed(self, key: str, name: str, now: float, death: RunnerFailure, info: RunnerInfo) -> None:
        """A start failed, or a loaded runner ended unasked."""
        failure = self._failures.setdefault(key, Failure(name, Circuit(self.tuning, self.rng)))
        failure.circuit.failed(now, permanent=death.remedy is Remedy.NONE)
        failure.death, failure.at, failure.name = death, now, name
        failure.restarts += not death.loading
        failure.info = info

    def loaded(self, key: str) -> None:
        """It is up again: nothing failed is shown any more. The count stays until it proves stable."""
        if key in self._failures:
            self._failures[key].info = None

    def served(self, key: str, now: float, ready_since: float) -> None:
        """A request was completed."""
        if key in self._failures:
            self._failures[key].circuit.served(now, ready_since)

    def wait(self, key: str, now: float) -> float:
        """Seconds until a start may be tried. Raises what to answer meanwhile when the circuit is open."""
        failure = self._failures.get(key)
        if failure is None:
            return 0.0
        gate = failure.circuit.gate(now)
        if gate.closed_for > 0:
            raise self._refusal(failure, gate.closed_for)
        return gate.wait

    def restarts(self, key: str) -> int:
        """How often a loaded runner of this key ended unasked."""
        failure = self._failures.get(key)
        return failure.restarts if failure is not None else 0

    def reset(self, wanted: str) -> bool:
        """Forget the failures of a key or model name. False when there were none."""
        keys = [key for key, failure in self._failures.items() if wanted in (key, failure.name)]
        for key in keys:
            del self._failures[key]
        return bool(keys)

    def shown(self, now: float) -> list[RunnerInfo]:
        """What failed and is not loaded again, as long as it matters."""
        memory = max(self.tuning.restart_window, self.tuning.restart_pause)
        return [one.info for one in self._failures.values() if one.info is not None and now - one.at <= memory]

    def _refusal(self, failure: Failure, closed_for: float) -> OllmlxError:
        assert failure.death is not None
        sentence = failure.death.sentence(failure.name)
        if failure.circuit.permanent:
            error = failure.death.error(failure.name)
            error.retry_after = closed_for
            error.hint = f"fix the cause, then: ollmlx stop {failure.name}"
            return error
        limit, window = self.tuning.restart_limit, self.tuning.restart_window
        often = f"{failure.name} failed {limit} {'time' if limit == 1 else 'times'}"
        within = f" within {format_duration(window)}" if window < math.inf else ""
        again = "it is not tried again"
        if closed_for < math.inf:
            again = f"it is tried again in {format_duration(math.ceil(closed_for))}"
        return RunnerUnavailable(
            f"{often}{within}; {again}. Last cause: {sentence}",
            code="RUN006",
            hint=f"ollmlx stop {failure.name} lets it be tried at once",
            retry_after=closed_for,
        )
