"""Whether a runner still makes progress. Pure: it is told what was seen and when, and it says what that means."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ProgressClock:
    """Silence, measured on a monotonic clock.

    Any change of the sign (tokens, prefill chunks, load steps, lines of output) is progress. When the observer itself
    was not running (suspended, SIGSTOP), `gap` seconds without a look start the measurement anew: our sleep is not the
    runner's silence.
    """

    gap: float
    _sign: object = None
    _since: float = 0.0
    _looked: float | None = None

    def restart(self, now: float) -> None:
        """Silence begins now."""
        self._since = self._looked = now

    def rebase(self, now: float, sign: object) -> float:
        """As `look`, but a new sign is not progress: somebody else made it change. Seconds of silence so far."""
        self._sign = sign
        return self.look(now, sign)

    def look(self, now: float, sign: object) -> float:
        """Seconds of silence so far."""
        asleep = self._looked is not None and now - self._looked > self.gap
        if self._looked is None or asleep or sign != self._sign:
            self._since = now
            self._sign = sign
        self._looked = now
        return now - self._since
