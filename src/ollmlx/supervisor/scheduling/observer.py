"""Events of the pool, for metrics and logs. Subclass `PoolObserver` and pass it to `Pool.subscribe`."""

from __future__ import annotations

from collections.abc import Callable


class PoolObserver:
    """Called synchronously on the event loop: a method must return at once and not raise. Times in seconds."""

    def on_load(self, model: str, backend: str, seconds: float, outcome: str) -> None:
        """A load ended: `ok`, `failed` or `cancelled`."""

    def on_evict(self, model: str, reason: str) -> None:
        """A runner is being stopped: `keep_alive`, `memory`, `asked`, `context`, `spent` or `drain`."""

    def on_restart(self, model: str, cause: str) -> None:
        """A loaded runner exited without being asked: a cause of `failure.Cause`, or `exit_N`, `SIGNAME`."""

    def on_queue(self, depth: int) -> None:
        """The queue has so many requests now."""

    def on_admit(self, model: str, waited: float, loading: float) -> None:
        """A request got its runner after `waited`, of which `loading` was spent on the load."""

    def on_reject(self, model: str, reason: str) -> None:
        """A request was refused: `queue_full`, `draining`, `memory`, `circuit` or `timeout`."""

    def on_cancel(self, model: str, phase: str) -> None:
        """A client disconnected while its request was `queued`, `loading` or `running`."""

    def on_retry(self, model: str) -> None:
        """A request whose runner exited before the first event is tried on a fresh runner."""


def _for_each(event: str) -> Callable[..., None]:
    def call(self: PoolObservers, *details: str | float) -> None:
        for observer in self.subscribers:
            getattr(observer, event)(*details)

    return call


class PoolObservers(PoolObserver):
    """Passes every event on to each subscriber."""

    def __init__(self) -> None:
        self.subscribers: list[PoolObserver] = []


for _event in [name for name in vars(PoolObserver) if name.startswith("on_")]:
    setattr(PoolObservers, _event, _for_each(_event))
