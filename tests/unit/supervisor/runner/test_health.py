"""The watch over a runner: what silence, trial prompts and memory lead to. Clock and runner are objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from ollmlx.protocol import Progress
from ollmlx.settings import RunnerSettings
from ollmlx.supervisor.runner.client import RunnerClient, Severed
from ollmlx.supervisor.runner.failure import Cause
from ollmlx.supervisor.runner.health import HealthMonitor
from ollmlx.supervisor.scheduling.memory import allow
from ollmlx.supervisor.tuning import Tuning
from ollmlx.testing import fake_model
from ollmlx.testing.clock import HandClock
from ollmlx.types import Done, Event, GenerateRequest


class Watched:
    """A runner as the vigil sees it; also its own client."""

    def __init__(self) -> None:
        self.id = "parrot#1"
        self.client = cast(RunnerClient, self)
        self.allowance = allow(100, 0, 1000, Tuning(slack=0, hard_share=2.0, soft_share=0.5))
        self.working = 1
        self.unread = 0
        self.progress = 0
        self.answers = True
        self.sings = True
        self.trims = 0
        self.songs = 0
        self.condemned: list[tuple[Cause, str]] = []

    def condemn(self, cause: Cause, text: str) -> None:
        self.condemned.append((cause, text))

    def changed(self) -> None:
        return

    async def status(self, timeout: float) -> Progress:
        if not self.answers:
            raise Severed("no answer within 5 s")
        return Progress(engine="fake", state="ready", progress=self.progress, active=self.working)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        self.songs += 1
        if not self.sings:
            raise Severed("it does not accept connections")
        self.progress += 1
        yield Done()

    async def command(self, name: str, timeout: float) -> None:
        self.trims += 1


class Watch:
    def __init__(self) -> None:
        self.clock, self.runner, self.weight = HandClock(), Watched(), 0
        self.vigil = HealthMonitor(
            self.runner, fake_model(), RunnerSettings(hang_timeout=20), Tuning(), self.clock, lambda: self.weight
        )

    async def pass_by(self, seconds: int, **grows: Any) -> None:
        for _ in range(seconds):
            self.runner.progress += grows.get("progress", 0)
            await self.clock.advance(1)


@pytest.fixture
async def watch() -> AsyncIterator[Watch]:
    made = Watch()
    task = asyncio.create_task(made.vigil.keep())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_runner_that_makes_progress_is_left_alone(watch: Watch) -> None:
    await watch.pass_by(100, progress=1)
    assert not watch.runner.condemned
    assert not watch.runner.songs


async def test_an_idle_runner_may_be_silent_for_ever(watch: Watch) -> None:
    watch.runner.working = 0
    await watch.pass_by(100)
    assert not watch.runner.condemned


async def test_silence_with_work_to_do_ends_it_at_the_limit(watch: Watch) -> None:
    watch.runner.sings = False
    await watch.pass_by(19)
    assert not watch.runner.condemned
    await watch.pass_by(3)
    assert watch.runner.condemned[0] == (Cause.HANG, "made no progress for 20s")


async def test_what_its_clients_do_not_read_is_not_its_silence(watch: Watch) -> None:
    watch.runner.unread = 1
    await watch.pass_by(100)
    assert not watch.runner.condemned
    watch.runner.working = 2
    await watch.pass_by(32)
    assert watch.runner.condemned[0][0] is Cause.HANG, "somebody else waits for it"


async def test_a_status_that_does_not_come_is_silence_too(watch: Watch) -> None:
    watch.runner.working, watch.runner.answers = 0, False
    await watch.pass_by(25)
    assert watch.runner.condemned[0][0] is Cause.HANG
    assert "no answer within 5 s" in watch.runner.condemned[0][1]


async def test_an_answered_trial_prompt_buys_half_the_limit_once(watch: Watch) -> None:
    await watch.pass_by(28)
    assert watch.runner.songs == 1
    assert not watch.runner.condemned
    await watch.pass_by(4)
    assert watch.runner.condemned[0][0] is Cause.HANG


async def test_work_that_goes_on_after_a_trial_prompt_starts_the_measurement_anew(watch: Watch) -> None:
    await watch.pass_by(15)
    assert watch.runner.songs == 1
    await watch.pass_by(1, progress=1)
    await watch.pass_by(18)
    assert not watch.runner.condemned


async def test_our_own_sleep_is_not_its_silence(watch: Watch) -> None:
    watch.runner.sings = False
    await watch.pass_by(9)
    watch.clock._now += 3600  # suspended: no probe in between
    await watch.pass_by(9)
    assert not watch.runner.condemned


async def test_above_the_soft_limit_it_drops_caches_and_gets_no_more_work(watch: Watch) -> None:
    watch.weight = watch.runner.allowance.soft + 1
    await watch.pass_by(4, progress=1)
    assert watch.vigil.throttled
    assert watch.runner.trims == 1
    assert not watch.vigil.bloated
    watch.weight = 1
    await watch.pass_by(1, progress=1)
    assert not watch.vigil.throttled


async def test_an_idle_runner_that_stays_above_the_soft_limit_is_bloated(watch: Watch) -> None:
    watch.runner.working = 0
    watch.weight = watch.runner.allowance.soft + 1
    await watch.pass_by(4)
    assert watch.vigil.bloated


async def test_above_the_hard_limit_twice_it_is_ended(watch: Watch) -> None:
    watch.weight = watch.runner.allowance.hard + 1
    await watch.pass_by(1, progress=1)
    assert not watch.runner.condemned
    await watch.pass_by(1, progress=1)
    assert watch.runner.condemned[0][0] is Cause.MEMORY
