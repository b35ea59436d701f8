"""Health of a runner: silence, trial prompts and memory, with a clock and a runner that are objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import cast

import pytest
from tests.unit.supervisor.toy_runners import HandClock

from ollmlx.errors import OllmlxError, OutOfMemory
from ollmlx.protocol import Progress
from ollmlx.supervisor.clock import Tuning
from ollmlx.supervisor.runner.client import ConnectionLost, RunnerClient
from ollmlx.supervisor.runner.failure import Cause
from ollmlx.supervisor.runner.health import HealthMonitor, ProgressClock, send_trial_prompt
from ollmlx.supervisor.scheduling.memory import allowance_for
from ollmlx.testing import fake_model
from ollmlx.types import Done, EmbedRequest, EmbedResult, Event, GenerateRequest, Text

# -- the progress clock ---------------------------------------------------------------------------------------------


@pytest.mark.fault(26)
@pytest.mark.parametrize(
    ("looks", "silence"),
    [
        ([(0, "same"), (4, "same"), (8, "same")], 8),
        ([(0, "same"), (8, "same"), (9, "other")], 0),
        ([(0, "same"), (5, "same"), (3600, "same")], 0),  # this process was suspended
        ([(0, "same"), (5, "same"), (3600, "same"), (3605, "same")], 5),
    ],
)
def test_silence_is_the_time_without_a_change_and_not_the_time_without_a_look(
    looks: list[tuple[float, str]], silence: float
) -> None:
    clock = ProgressClock(gap=10)
    assert [clock.look(now, sign) for now, sign in looks][-1] == silence


# -- the trial prompt -----------------------------------------------------------------------------------------------


class AnsweringClient:
    """A client whose runner gives these answers."""

    def __init__(
        self, *events: Event, vectors: Sequence[tuple[float, ...]] = (), error: Exception | None = None
    ) -> None:
        self.events = events
        self.vectors = tuple(vectors)
        self.error = error
        self.requests: list[GenerateRequest] = []

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        for event in self.events:
            yield event

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        return EmbedResult(embeddings=self.vectors, prompt_tokens=1)


async def trial(client: AnsweringClient, *capabilities: str) -> None:
    model = fake_model("parrot")
    if capabilities:
        model = model.model_copy(update={"capabilities": capabilities})
    await send_trial_prompt(cast(RunnerClient, client), model, "r1")


async def test_a_trial_prompt_decodes_one_token() -> None:
    client = AnsweringClient(Text(text="x"), Done())
    await trial(client)
    assert client.requests[0].options.num_predict == 1


@pytest.mark.finding("RUN003")
@pytest.mark.parametrize("vectors", [(), ((),)])
async def test_a_model_that_computes_no_vector_fails_the_trial(vectors: Sequence[tuple[float, ...]]) -> None:
    with pytest.raises(OllmlxError, match="computed no vector") as failed:
        await trial(AnsweringClient(vectors=vectors), "embedding")
    assert failed.value.code == "RUN003"
    await trial(AnsweringClient(vectors=[(1.0,)]), "embedding")


async def test_the_error_of_a_trial_prompt_is_raised() -> None:
    with pytest.raises(OutOfMemory, match="needs 9 GiB"):
        await trial(AnsweringClient(error=OutOfMemory("needs 9 GiB", code="RUN005")))


# -- the monitor ----------------------------------------------------------------------------------------------------


class ToyClient:
    """The client of a runner whose status and answers the test sets."""

    def __init__(self) -> None:
        self.unread = 0
        self.progress = 0
        self.answers_status = True
        self.stuck = False
        self.answers_trials = True
        self.trims = 0
        self.trials = 0

    async def status(self, timeout: float) -> Progress:
        if not self.answers_status:
            raise ConnectionLost("no answer within 5 s")
        return Progress(engine="fake", state="ready", progress=self.progress, stuck=self.stuck)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        self.trials += 1
        if not self.answers_trials:
            raise ConnectionLost("it does not accept connections")
        self.progress += 1
        yield Done()

    async def command(self, name: str, timeout: float) -> None:
        self.trims += 1


class MonitoredToy:
    """A runner as its monitor sees it."""

    def __init__(self) -> None:
        self.id = "parrot#1"
        self.toy = ToyClient()
        self.client = cast(RunnerClient, self.toy)
        self.allowance = allowance_for(100, 0, 1000, Tuning(slack=0, hard_share=2.0, soft_share=0.5))
        self.active_requests = 1
        self.status: Progress | None = None
        self.memory = 0
        self.throttled = self.needs_replacement = False
        self.on_change: Callable[[], None] = lambda: None
        self.killed: list[tuple[Cause, str]] = []

    def kill(self, cause: Cause, text: str) -> None:
        self.killed.append((cause, text))


class Monitored:
    """A monitor with a hang timeout of 20 s and a probe each second. `used`: bytes that the process uses."""

    def __init__(self) -> None:
        self.clock, self.runner, self.used = HandClock(), MonitoredToy(), 0
        self.toy = self.runner.toy
        self.monitor = HealthMonitor(
            self.runner, fake_model(), self.clock, lambda: self.used, hang_timeout=20, probe_interval=1
        )

    async def wait(self, seconds: int, *, progress: int = 0) -> None:
        for _ in range(seconds):
            self.toy.progress += progress
            await self.clock.advance(1)


@pytest.fixture
async def monitored() -> AsyncIterator[Monitored]:
    made = Monitored()
    task = asyncio.create_task(made.monitor.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("active", "unread", "progress"),
    [(1, 0, 1), (0, 0, 0), (1, 1, 0)],
    ids=["makes progress", "is idle", "has a client that does not read the answer"],
)
async def test_no_trial_prompt_is_sent_to_a_runner_that(
    monitored: Monitored, active: int, unread: int, progress: int
) -> None:
    monitored.runner.active_requests, monitored.toy.unread = active, unread
    await monitored.wait(100, progress=progress)
    assert not monitored.runner.killed
    assert not monitored.toy.trials


@pytest.mark.parametrize("unread", [0, 1])
async def test_a_runner_with_work_is_killed_after_the_hang_timeout(monitored: Monitored, unread: int) -> None:
    monitored.runner.active_requests, monitored.toy.unread = unread + 1, unread
    monitored.toy.answers_trials = False
    await monitored.wait(19)
    assert not monitored.runner.killed
    await monitored.wait(3)
    assert monitored.runner.killed[0] == (Cause.HANG, "made no progress for 20s")


async def test_a_missing_status_counts_as_silence(monitored: Monitored) -> None:
    monitored.runner.active_requests, monitored.toy.answers_status = 0, False
    await monitored.wait(25)
    assert monitored.runner.killed[0][0] is Cause.HANG
    assert "no answer within 5 s" in monitored.runner.killed[0][1]


async def test_an_answered_trial_prompt_extends_the_limit_by_half_once(monitored: Monitored) -> None:
    await monitored.wait(28)
    assert monitored.toy.trials == 1
    assert not monitored.runner.killed
    await monitored.wait(4)
    assert monitored.runner.killed[0][0] is Cause.HANG


async def test_progress_after_a_trial_prompt_begins_the_measurement_again(monitored: Monitored) -> None:
    await monitored.wait(15)
    assert monitored.toy.trials == 1
    await monitored.wait(1, progress=1)
    await monitored.wait(18)
    assert not monitored.runner.killed


async def test_the_suspension_of_the_daemon_is_no_hang_of_the_runner(monitored: Monitored) -> None:
    monitored.toy.answers_trials = False
    await monitored.wait(9)
    monitored.clock._now += 3600  # no probe in between
    await monitored.wait(9)
    assert not monitored.runner.killed


async def test_above_the_soft_limit_a_runner_drops_caches_and_gets_no_more_work(monitored: Monitored) -> None:
    monitored.used = monitored.runner.allowance.soft + 1
    await monitored.wait(4, progress=1)
    assert monitored.runner.throttled
    assert monitored.toy.trims == 1
    assert not monitored.runner.needs_replacement
    monitored.used = 1
    await monitored.wait(1, progress=1)
    assert not monitored.runner.throttled


async def test_an_idle_runner_that_stays_above_the_soft_limit_is_replaced(monitored: Monitored) -> None:
    monitored.runner.active_requests = 0
    monitored.used = monitored.runner.allowance.soft + 1
    await monitored.wait(4)
    assert monitored.runner.needs_replacement


async def test_a_runner_that_is_stuck_gets_no_more_work_and_is_replaced_when_it_is_idle(monitored: Monitored) -> None:
    monitored.toy.stuck = True
    await monitored.wait(1, progress=1)
    assert (monitored.runner.throttled, monitored.runner.needs_replacement) == (True, False)
    monitored.runner.active_requests = 0
    await monitored.wait(1)
    assert (monitored.runner.needs_replacement, monitored.runner.killed) == (True, [])


async def test_a_runner_twice_above_the_hard_limit_is_killed(monitored: Monitored) -> None:
    monitored.used = monitored.runner.allowance.hard + 1
    await monitored.wait(1, progress=1)
    assert not monitored.runner.killed
    await monitored.wait(1, progress=1)
    assert monitored.runner.killed[0][0] is Cause.MEMORY
