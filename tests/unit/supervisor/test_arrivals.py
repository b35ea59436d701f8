"""Requests on their way in: counted until they ask for a runner, and for no longer than a second."""

from __future__ import annotations

import pytest

from ollmlx.supervisor.arrivals import ARRIVAL, EXPECTED, Arrivals, seen
from ollmlx.testing.clock import HandClock


async def test_a_request_counts_from_its_turn_until_it_has_asked_for_a_runner() -> None:
    arrivals = Arrivals(HandClock())
    first, second = arrivals.connection(), arrivals.connection()
    assert len(arrivals) == 0
    first.come()
    second.come()
    second.come()
    assert len(arrivals) == 2
    first.seen()
    first.seen()
    assert len(arrivals) == 1
    first.come()
    assert len(arrivals) == 2


@pytest.mark.fault(39)
async def test_a_body_that_does_not_come_shuts_nobody_out() -> None:
    clock = HandClock()
    arrivals = Arrivals(clock)
    slow, prompt = arrivals.connection(), arrivals.connection()
    slow.come()
    prompt.come()
    await clock.advance(EXPECTED / 2)
    prompt.come()  # its next request
    await clock.advance(EXPECTED / 2 + 0.01)
    assert len(arrivals) == 1
    slow.seen()
    prompt.seen()
    assert len(arrivals) == 0


async def test_the_running_task_says_it_for_its_connection() -> None:
    arrivals = Arrivals(HandClock())
    mine = arrivals.connection()
    mine.come()
    seen()
    assert len(arrivals) == 1, "outside of a connection there is nothing to say"
    token = ARRIVAL.set(mine)
    seen()
    ARRIVAL.reset(token)
    assert len(arrivals) == 0
