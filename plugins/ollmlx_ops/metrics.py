"""The daemon's figures for Prometheus, in a registry of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ollmlx import ModelName, __version__
from ollmlx.types import RunnerInfo, RunnerState
from ollmlx.web import Exchange
from ollmlx_ops.pool_counts import SECONDS, PoolCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # tokens a second
OTHER = "other"
"""The route of requests that found none: paths are the clients' to choose, labels are not."""


class Metrics:
    """Everything that is counted in one daemon. `runners` gives the loaded models of the moment."""

    def __init__(self, runners: Callable[[], Sequence[RunnerInfo]]) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.pool = PoolCounts(self.registry)
        self._requests = Counter(
            "ollmlx_requests", "Requests answered.", ("route", "method", "status"), registry=self.registry
        )
        self._seconds = self._histogram("request_seconds", "From the first line to the last byte.", "route")
        self._first = self._histogram("first_token_seconds", "Until the first piece of an answer.", "model")
        self._rate = Histogram(
            "ollmlx_tokens_per_second", "Speed of generation.", ("model",), registry=self.registry, buckets=RATES
        )
        self._tokens = {
            kind: Counter(f"ollmlx_{kind}_tokens", told, ("model",), registry=self.registry)
            for kind, told in (
                ("prompt", "Tokens of prompts and of texts for vectors, cached ones included."),
                ("cached", "Tokens of prompts that came from the prefix cache."),
                ("generated", "Tokens generated."),
            )
        }
        self._running = Gauge("ollmlx_requests_in_progress", "Requests being answered.", registry=self.registry)
        Info("ollmlx_build", "The version that runs.", registry=self.registry).info({"version": __version__})
        Gauge("ollmlx_start_time_seconds", "When the daemon started.", registry=self.registry).set(time.time())
        self.registry.register(RunnerGauges(runners))

    def _histogram(self, name: str, told: str, label: str) -> Histogram:
        return Histogram(f"ollmlx_{name}", told, (label,), registry=self.registry, buckets=SECONDS)

    def in_progress(self, count: Callable[[], int]) -> None:
        """Where the number of running requests is read."""
        self._running.set_function(count)

    def answered(self, exchange: Exchange) -> None:
        """Count one exchange that is over."""
        route = exchange.route or OTHER
        self._requests.labels(route, exchange.method if exchange.route else OTHER, exchange.status).inc()
        self._seconds.labels(route).observe(exchange.total_ns / 1e9)
        done = exchange.done
        if done is None and exchange.embedded is None:  # a name that no model has must not become a label
            return
        model = ModelName.parse(exchange.model).short  # it answered: the name is one
        if done is None:
            self._tokens["prompt"].labels(model).inc(exchange.embedded or 0)
            return
        if exchange.first_ns:
            self._first.labels(model).observe(exchange.first_ns / 1e9)
        if done.decode_ns > 0 and done.generated_tokens > 1:
            self._rate.labels(model).observe(done.generated_tokens / (done.decode_ns / 1e9))
        self._tokens["prompt"].labels(model).inc(done.prompt_tokens)
        self._tokens["cached"].labels(model).inc(done.cached_tokens)
        self._tokens["generated"].labels(model).inc(done.generated_tokens)

    def text(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self.registry)


class RunnerGauges(Collector):
    """What each runner is doing, read when somebody asks."""

    def __init__(self, runners: Callable[[], Sequence[RunnerInfo]]) -> None:
        self._runners = runners

    def describe(self) -> Iterable[Metric]:
        """The families, without asking for runners."""
        return self._families().values()

    def collect(self) -> Iterable[Metric]:
        """The families, a sample each for a runner."""
        families = self._families()
        now = datetime.now(UTC)
        for runner in self._runners():
            labels = [runner.model.name.short, runner.backend, str(runner.state)]
            if runner.started_at and runner.state is not RunnerState.FAILED:
                families["uptime_seconds"].add_metric(labels, (now - runner.started_at).total_seconds())
            families["memory_bytes"].add_metric(labels, runner.memory)
            families["reserved_bytes"].add_metric(labels, runner.reserved)
            families["active_requests"].add_metric(labels, runner.active)
            families["parallel"].add_metric(labels, runner.parallel)
        return families.values()

    def _families(self) -> dict[str, GaugeMetricFamily]:
        told = {
            "uptime_seconds": "Age of a runner.",
            "memory_bytes": "Memory a runner uses.",
            "reserved_bytes": "Memory a runner is charged with in the budget.",
            "active_requests": "Requests a runner serves.",
            "parallel": "Requests a runner serves at once, at the most.",
        }
        labels = ("model", "backend", "state")
        return {name: GaugeMetricFamily(f"ollmlx_runner_{name}", text, labels=labels) for name, text in told.items()}
