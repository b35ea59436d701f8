"""What the pool tells about itself, for metrics. Subclass, override what you count, `pool.subscribe(...)`."""

from __future__ import annotations


class PoolObserver:
    """Called synchronously on the event loop: must return at once and not raise. Times in seconds."""

    def on_load(self, model: str, backend: str, seconds: float, outcome: str) -> None:
        """A load ended: `ok`, `failed` or `cancelled`."""

    def on_evict(self, model: str, reason: str) -> None:
        """A runner was let go: `keep_alive`, `memory`, `asked`, `context`, `bloated` or `drain`."""

    def on_restart(self, model: str, cause: str) -> None:
        """A loaded runner ended unasked: a cause of `failure.Cause`, or `exit_N`, `SIGNAME`."""

    def on_queue(self, depth: int) -> None:
        """So many requests wait now."""

    def on_admit(self, model: str, waited: float, loading: float) -> None:
        """A request got its runner after waiting, of which `loading` went into the load."""

    def on_reject(self, model: str, reason: str) -> None:
        """A request was turned away: `queue_full`, `draining`, `memory`, `circuit` or `timeout`."""

    def on_cancel(self, model: str, phase: str) -> None:
        """A client left while its request was `queued`, `loading` or `running`."""

    def on_retry(self, model: str) -> None:
        """A request whose runner died before its first event is tried on a fresh one."""


class PoolObservers(PoolObserver):
    """Passes every call on to each subscriber."""

    def __init__(self) -> None:
        self._all: list[PoolObserver] = []

    def add(self, listener: PoolObserver) -> None:
        self._all.append(listener)

    def on_load(self, model: str, backend: str, seconds: float, outcome: str) -> None:
        for each in self._all:
            each.on_load(model, backend, seconds, outcome)

    def on_evict(self, model: str, reason: str) -> None:
        for each in self._all:
            each.on_evict(model, reason)

    def on_restart(self, model: str, cause: str) -> None:
        for each in self._all:
            each.on_restart(model, cause)

    def on_queue(self, depth: int) -> None:
        for each in self._all:
            each.on_queue(depth)

    def on_admit(self, model: str, waited: float, loading: float) -> None:
        for each in self._all:
            each.on_admit(model, waited, loading)

    def on_reject(self, model: str, reason: str) -> None:
        for each in self._all:
            each.on_reject(model, reason)

    def on_cancel(self, model: str, phase: str) -> None:
        for each in self._all:
            each.on_cancel(model, phase)

    def on_retry(self, model: str) -> None:
        for each in self._all:
            each.on_retry(model)
