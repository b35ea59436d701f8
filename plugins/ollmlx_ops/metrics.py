"""The daemon's metrics for Prometheus, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ollmlx import ModelName, __version__
from ollmlx.types import RunnerInfo, RunnerState
from ollmlx.web import RequestContext

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # tokens a second
GAUGES = {
    "memory": ("memory_bytes", "Memory a runner uses."),
    "reserved": ("reserved_bytes", "Memory that the budget reserves for a runner."),
    "active": ("active_requests", "Requests a runner serves."),
    "parallel": ("parallel", "Requests a runner can serve at once."),
}
"""Metrics of each runner, by the attribute of RunnerInfo."""
PREFIX = "ollmlx"
OTHER = "other"
"""The route label of requests without a route. Clients choose paths, so paths must not become labels."""


class Metrics:
    """All metrics of one daemon. `runners` returns the loaded models."""

    def __init__(self, runners: Callable[[], Sequence[RunnerInfo]]) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.pool = PoolMetrics(self.registry)
        counter = partial(Counter, namespace=PREFIX, registry=self.registry)
        gauge = partial(Gauge, namespace=PREFIX, registry=self.registry)
        histogram = partial(Histogram, namespace=PREFIX, registry=self.registry, buckets=SECONDS)
        self._requests = counter("requests", "Requests answered.", ("route", "method", "status"))
        self._seconds = histogram("request_seconds", "From the first line to the last byte.", ("route",))
        self._first = histogram("first_token_seconds", "Until the first piece of an answer.", ("model",))
        self._rate = histogram("tokens_per_second", "Speed of generation.", ("model",), buckets=RATES)
        self._prompt = counter(
            "prompt_tokens", "Tokens of prompts and of texts for vectors, cached ones included.", ("model",)
        )
        self._cached = counter("cached_tokens", "Tokens of prompts that came from the prefix cache.", ("model",))
        self._generated = counter("generated_tokens", "Tokens generated.", ("model",))
        self._key_requests = counter("key_requests", "Requests of named keys, by outcome.", ("key", "outcome"))
        self._key_tokens = counter("key_tokens", "Tokens of prompts and answers of named keys.", ("key",))
        self.running = gauge("requests_in_progress", "Requests being answered.")
        gauge("start_time_seconds", "When the daemon started.").set_to_current_time()
        Info("build", "The version that runs.", namespace=PREFIX, registry=self.registry).info({"version": __version__})
        self.registry.register(RunnerGauges(runners))

    def count(self, request: RequestContext) -> None:
        route = request.route or OTHER
        self._requests.labels(route, request.method if request.route else OTHER, request.status).inc()
        self._seconds.labels(route).observe(request.total_ns / 1e9)
        if request.quotas is not None and request.quotas.is_named(request.client):
            outcome = "refused" if request.error == "limit_reached" else "served"
            self._key_requests.labels(request.client, outcome).inc()
            self._key_tokens.labels(request.client).inc(request.tokens)
        done = request.done
        if done is None and request.embedded is None:  # the name of a model that does not exist must not become a label
            return
        model = ModelName.parse(request.model).short  # a model of this name answered, so the name is valid
        if done is None:
            self._prompt.labels(model).inc(request.embedded or 0)
            return
        if request.first_ns:
            self._first.labels(model).observe(request.first_ns / 1e9)
        if done.decode_ns > 0 and done.generated_tokens > 1:
            self._rate.labels(model).observe(done.generated_tokens / (done.decode_ns / 1e9))
        self._prompt.labels(model).inc(done.prompt_tokens)
        self._cached.labels(model).inc(done.cached_tokens)
        self._generated.labels(model).inc(done.generated_tokens)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class PoolMetrics:
    """Observer of one pool. The pool calls its methods on the event loop, with times in seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter = partial(Counter, namespace=PREFIX, registry=registry)
        histogram = partial(Histogram, namespace=PREFIX, registry=registry, buckets=SECONDS)
        self._loads = counter("loads", "Loads that ended, by outcome.", ("model", "backend", "outcome"))
        self._load_seconds = histogram("load_seconds", "How long loads took.", ("model",))
        self._evictions = counter("evictions", "Runners stopped on purpose, by reason.", ("model", "reason"))
        self._restarts = counter("restarts", "Loaded runners that failed, by cause.", ("model", "cause"))
        self._rejected = counter("rejected", "Requests refused, by reason.", ("model", "reason"))
        self._cancelled = counter("cancelled", "Requests whose client left, by phase.", ("model", "phase"))
        self._retries = counter("retries", "Requests tried again on a fresh runner.", ("model",))
        self._waits = histogram("queue_wait_seconds", "How long requests waited, loads not counted.", ("model",))
        self._depth = Gauge("queue_depth", "Requests that wait for a runner.", namespace=PREFIX, registry=registry)

    def on_load(self, model: str, backend: str, seconds: float, outcome: str) -> None:
        self._loads.labels(_short(model), backend, outcome).inc()
        if outcome == "ok":
            self._load_seconds.labels(_short(model)).observe(seconds)

    def on_evict(self, model: str, reason: str) -> None:
        self._evictions.labels(_short(model), reason).inc()

    def on_restart(self, model: str, cause: str) -> None:
        self._restarts.labels(_short(model), cause).inc()

    def on_queue(self, depth: int) -> None:
        self._depth.set(depth)

    def on_admit(self, model: str, waited: float, loading: float) -> None:
        self._waits.labels(_short(model)).observe(max(0.0, waited - loading))

    def on_reject(self, model: str, reason: str) -> None:
        self._rejected.labels(_short(model), reason).inc()

    def on_cancel(self, model: str, phase: str) -> None:
        self._cancelled.labels(_short(model), phase).inc()

    def on_retry(self, model: str) -> None:
        self._retries.labels(_short(model)).inc()


class RunnerGauges(Collector):
    """The state of each runner, read when metrics are collected."""

    def __init__(self, runners: Callable[[], Sequence[RunnerInfo]]) -> None:
        self._runners = runners

    def collect(self) -> Iterator[Metric]:
        gauge = partial(GaugeMetricFamily, labels=("model", "backend", "state"))
        runners = [((one.model.name.short, one.backend, str(one.state)), one) for one in self._runners()]
        uptime = gauge(f"{PREFIX}_runner_uptime_seconds", "Age of a runner.")
        for labels, runner in runners:
            if runner.started_at and runner.state is not RunnerState.FAILED:
                uptime.add_metric(labels, (datetime.now(UTC) - runner.started_at).total_seconds())
        yield uptime
        for attribute, (name, text) in GAUGES.items():
            family = gauge(f"{PREFIX}_runner_{name}", text)
            for labels, runner in runners:
                family.add_metric(labels, getattr(runner, attribute))
            yield family


def _short(model: str) -> str:
    """Return a model's name without the tag that the pool adds."""
    return model.removesuffix(":latest")
