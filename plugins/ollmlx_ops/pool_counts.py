"""What the pool of runners tells about itself, counted: the methods that it calls on its subscribers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


def _short(model: str) -> str:
    """A model's name as people write it: the pool says it in full."""
    return model.removesuffix(":latest")


class PoolCounts:
    """Subscriber of one pool. Called on the event loop; times in seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(f"ollmlx_{name}", told, labels, registry=registry)

        def histogram(name: str, told: str, *labels: str) -> Histogram:
            return Histogram(f"ollmlx_{name}", told, labels, registry=registry, buckets=SECONDS)

        self._loads = counter("loads", "Loads that ended, by outcome.", "model", "backend", "outcome")
        self._load_seconds = histogram("load_seconds", "How long loads took.", "model")
        self._evictions = counter("evictions", "Runners let go, by reason.", "model", "reason")
        self._restarts = counter("restarts", "Runners that ended unasked, by cause.", "model", "cause")
        self._rejected = counter("rejected", "Requests turned away, by reason.", "model", "reason")
        self._cancelled = counter("cancelled", "Requests whose client left, by phase.", "model", "phase")
        self._retries = counter("retries", "Requests tried again on a fresh runner.", "model")
        self._waits = histogram("queue_wait_seconds", "How long requests waited, loads not counted.", "model")
        self._depth = Gauge("ollmlx_queue_depth", "Requests that wait for a runner.", registry=registry)

    def on_load(self, model: str, backend: str, seconds: float, outcome: str) -> None:
        """A load ended."""
        self._loads.labels(_short(model), backend, outcome).inc()
        if outcome == "ok":
            self._load_seconds.labels(_short(model)).observe(seconds)

    def on_evict(self, model: str, reason: str) -> None:
        """A runner was let go."""
        self._evictions.labels(_short(model), reason).inc()

    def on_restart(self, model: str, cause: str) -> None:
        """A loaded runner ended unasked."""
        self._restarts.labels(_short(model), cause).inc()

    def on_queue(self, depth: int) -> None:
        """So many requests wait now."""
        self._depth.set(depth)

    def on_admit(self, model: str, waited: float, loading: float) -> None:
        """A request got its runner."""
        self._waits.labels(_short(model)).observe(max(0.0, waited - loading))

    def on_reject(self, model: str, reason: str) -> None:
        """A request was turned away."""
        self._rejected.labels(_short(model), reason).inc()

    def on_cancel(self, model: str, phase: str) -> None:
        """A client left."""
        self._cancelled.labels(_short(model), phase).inc()

    def on_retry(self, model: str) -> None:
        """A request is tried again."""
        self._retries.labels(_short(model)).inc()
