"""The fault matrix: runners that fail to start, hang, flood or grow, as real processes under a real pool."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.e2e.helpers import gone

from ollmlx.errors import OllmlxError, RunnerFailed, Timeout
from ollmlx.launch.spec import LaunchSpec
from ollmlx.settings import Settings
from ollmlx.supervisor.clock import Tuning
from ollmlx.supervisor.scheduling.pool import Pool
from ollmlx.testing import engine_command, eventually, fake_model
from ollmlx.types import Caller, GenerateRequest, MemoryEstimate, RunnerInfo, RunnerState, Text

pytestmark = pytest.mark.e2e
MIB = 1024 * 1024


class PoolHarness:
    """A pool over real processes."""

    def __init__(self, state: Path, *, runners: dict[str, Any] | None = None, **tuning: Any) -> None:
        self.spawn_log = state.with_suffix(".spawns")
        memory = {"limit": "8GiB", "prompt_cache": 0}
        self.pool = Pool(
            Settings.model_validate({"storage": {"state": str(state)}, "runners": runners or {}, "memory": memory}),
            tuning=Tuning(**{"probe_interval": 0.1, "stop_timeout": 1, **tuning}),
        )

    def launch(self, name: str = "parrot", **script: Any) -> LaunchSpec:
        command = engine_command("ollmlx.testing.fake:FakeEngine", **script)
        estimate = MemoryEstimate(weights=64 * MIB, kv_cache=0, overhead=0)
        return LaunchSpec(
            key=name, model=fake_model(name), backend="fake", command=command, context_length=4096, estimate=estimate
        )

    async def ask(self, launch: LaunchSpec, prompt: str = "hello world") -> str:
        """Return the text of the answer."""
        request = GenerateRequest(prompt=prompt)
        events = [event async for event in self.pool.generate(launch, request, Caller(request_id="r1"))]
        assert events[-1].type == "done"
        return "".join(event.text for event in events if isinstance(event, Text))

    async def fails(self, kind: type[OllmlxError], launch: LaunchSpec, prompt: str = "hello world") -> OllmlxError:
        with pytest.raises(kind) as failed:
            await self.ask(launch, prompt)
        return failed.value

    def info(self, name: str = "parrot") -> RunnerInfo:
        return next(info for info in self.pool.runners() if info.model.name.short == name)

    def pid(self, name: str = "parrot") -> int:
        pid = self.info(name).pid
        assert pid is not None
        return pid


Start = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    started: list[PoolHarness] = []

    async def build(**settings: Any) -> PoolHarness:
        home = PoolHarness(tmp_path / str(len(started)), **settings)
        await home.pool.start()
        started.append(home)
        return home

    yield build
    for number, home in enumerate(started):
        held = home.pool._runners.ledger.in_use
        assert held == sum(info.reserved for info in home.pool.runners()), "memory is held by the runners that exist"
        await home.pool.close(0)
        assert home.pool._runners.ledger.in_use == 0
        assert not [info for info in home.pool.runners() if info.state is not RunnerState.FAILED]
        assert not [*(tmp_path / str(number)).rglob("*.sock"), *(tmp_path / str(number) / "runners").glob("*")]


TRIALS = {
    "exit:3": "ended with exit status 3 while loading: fake: exiting as told",
    "kill": "was killed by SIGKILL (the system kills like this when memory runs out) while loading",
    "garbage": "could not answer a trial prompt: it sent something that is not an event: b'<html>",
    "eof": "could not answer a trial prompt: it ended the answer without finishing it",
}


@pytest.mark.fault(1)
@pytest.mark.finding("RUN003")
@pytest.mark.parametrize("fault", TRIALS)
async def test_a_failed_trial_prompt_is_reported_with_its_cause_and_the_output(start: Start, fault: str) -> None:
    home = await start()
    failed = await home.fails(RunnerFailed, home.launch("bad", fault=fault))
    assert failed.message.startswith(f"the runner of bad:latest {TRIALS[fault]}")
    assert failed.code == ("RUN003" if fault in ("garbage", "eof") else "RUN002")
    assert home.info("bad").state is RunnerState.FAILED
    assert home.info("bad").pid is None
    if fault == "exit:3":
        assert home.info("bad").last_words[-1] == "fake: exiting as told"


@pytest.mark.fault(3)
async def test_a_load_without_progress_ends_at_the_deadline_with_its_group(start: Start) -> None:
    home = await start(runners={"load_timeout": 12})
    mute = home.launch("mute", load_fault="gil", spawn_log=str(home.spawn_log), children=1)
    asked = asyncio.create_task(home.fails(Timeout, mute))
    pid = int(await eventually(lambda: home.spawn_log.exists() and home.spawn_log.read_text().strip()))
    (child,) = await eventually(lambda: psutil.Process(pid).children())
    failed = await asked
    assert "made no progress for 12s" in failed.message
    assert home.info("mute").state is RunnerState.FAILED
    assert home.pool._runners.ledger.in_use == 0
    assert gone(pid)
    await eventually(lambda: gone(child.pid))


@pytest.mark.fault(4)
async def test_a_slow_load_that_makes_progress_succeeds(start: Start) -> None:
    home = await start(runners={"load_timeout": 10})
    slow = home.launch("slow", load_steps=22, load_ms=500)  # 11 s in all, and never silent for long
    assert await home.ask(slow) == "hello world"


@pytest.mark.fault(9)
@pytest.mark.finding("RUN004")
async def test_a_runner_that_holds_the_interpreter_lock_is_ended_at_the_deadline(start: Start) -> None:
    home = await start(runners={"hang_timeout": 4})
    launch = home.launch()
    await home.ask(launch)
    pid = home.pid()
    failed = await home.fails(Timeout, launch, "one two fake:fault=gil@1")
    assert "made no progress" in failed.message
    assert "Aborted" not in failed.message, "what the abort itself says is no cause"
    assert failed.code == "RUN004"
    assert gone(pid)
    assert await home.ask(launch) == "hello world"


@pytest.mark.fault(12)
async def test_a_healthy_runner_that_is_killed_five_times_is_replaced_for_every_next_request(start: Start) -> None:
    home = await start()
    for kills in range(6):
        assert await home.ask(home.launch()) == "hello world"
        assert home.info().restarts == kills
        pid = home.pid()
        os.kill(pid, signal.SIGKILL)
        await eventually(functools.partial(gone, pid))


@pytest.mark.fault(13)
async def test_a_runner_that_ignores_term_is_killed_with_all_its_children(start: Start) -> None:
    home = await start(stop_timeout=0.4)
    await home.ask(home.launch(ignore_term=True, close_fault="hang", children=1, escaped_children=1))
    family = [home.pid(), *(child.pid for child in psutil.Process(home.pid()).children(recursive=True))]
    assert len(family) == 3
    assert await home.pool.unload("parrot")
    await eventually(lambda: all(map(gone, family)))


@pytest.mark.fault(14)
async def test_a_flood_of_output_blocks_no_request_and_is_kept_in_bounds(start: Start) -> None:
    home = await start()
    launch = home.launch()
    assert await home.ask(launch, "one two fake:fault=flood:30@1") == "one two"
    words = home.info().last_words
    assert 0 < sum(map(len, words)) < 64 * 1024


@pytest.mark.fault(16)
async def test_a_runner_above_its_soft_limit_drops_its_caches_and_goes_on(start: Start) -> None:
    home = await start(slack=0, hard_share=4.0, soft_share=0.5)
    greedy = home.launch(rate=50)
    await home.ask(greedy)
    pid = home.pid()
    words = "word " * 300
    told = asyncio.create_task(home.ask(greedy, f"fake:fault=memory:140@1 {words}"))
    await eventually(lambda: home.info().memory > 128 * MIB)
    await eventually(lambda: home.info().memory < 128 * MIB)
    assert await told == words.strip()
    assert await home.ask(greedy) == "hello world"
    assert (home.pid(), home.info().restarts) == (pid, 0)


@pytest.mark.finding("RUN001")
async def test_a_program_that_cannot_be_executed_is_named(start: Start) -> None:
    home = await start()
    launch = home.launch("ghost")
    ghost = replace(launch, command=launch.command.model_copy(update={"argv": ("/nonexistent/program",)}))
    failed = await home.fails(RunnerFailed, ghost)
    assert failed.message == "cannot execute /nonexistent/program: No such file or directory"
    assert failed.code == "RUN001"
