"""Requests on their way in: counted until they ask for a runner, and for no longer than a second after their turn."""

from __future__ import annotations

import pytest

from ollmlx.supervisor.scheduling.arrivals import ARRIVAL, EXPECTED, Arrivals, seen
from ollmlx.testing.clock import HandClock


async def test_a_request_counts_from_its_first_line_until_it_has_asked_for_a_runner() -> None:
    arrivals = Arrivals(HandClock())
    first, second = arrivals.connection(), arrivals.connection()
    assert len(arrivals) == 0
    first.wait("a")
    second.wait("b")
    second.wait("a")
    second.come()
    assert (len(arrivals), arrivals.of("a"), arrivals.of("b")) == (2, 2, 0)
    for _ in range(2):
        first.seen()
    assert (len(arrivals), arrivals.of("a")) == (1, 1)
    first.wait("b")
    assert (len(arrivals), arrivals.of("a"), arrivals.of("b")) == (2, 1, 1)


async def test_who_was_seen_or_has_left_before_its_turn_does_not_come_back_with_it() -> None:
    arrivals = Arrivals(HandClock())
    left, other = arrivals.connection(), arrivals.connection()
    left.wait("a")
    left.seen()
    left.come()
    other.come()
    assert (len(arrivals), arrivals.of("a")) == (0, 0)


@pytest.mark.fault(39)
async def test_a_body_that_does_not_come_shuts_nobody_out_and_a_turn_is_waited_for_as_long_as_it_takes() -> None:
    clock = HandClock()
    arrivals = Arrivals(clock)
    slow, prompt, waiting = (arrivals.connection() for _ in range(3))
    waiting.wait("a")
    for arrival in (slow, prompt):
        arrival.wait("a")
        arrival.come()
    await clock.advance(EXPECTED / 2)
    prompt.seen()
    prompt.wait("a")  # its next request
    prompt.come()
    await clock.advance(EXPECTED / 2 + 0.01)
    assert (len(arrivals), arrivals.of("a")) == (2, 2)
    slow.seen()
    prompt.seen()
    await clock.advance(100)
    assert (len(arrivals), arrivals.of("a")) == (1, 1)


async def test_the_running_task_says_it_for_its_connection() -> None:
    arrivals = Arrivals(HandClock())
    mine = arrivals.connection()
    mine.wait("a")
    seen()
    assert len(arrivals) == 1, "outside of a connection there is nothing to say"
    token = ARRIVAL.set(mine)
    seen()
    ARRIVAL.reset(token)
    assert len(arrivals) == 0
