"""Back-off and circuit, on a clock that the test passes in."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from ollmlx.supervisor.scheduling.restart import CAP, STABLE, Circuit, backoff
from ollmlx.supervisor.tuning import Tuning


def circuit(limit: int = 3) -> Circuit:
    return Circuit(Tuning(restart_limit=limit, restart_window=100, restart_pause=50), random.Random(1))


@given(st.integers(0, 1000), st.integers(0, 2**32))
def test_the_pause_is_bounded_and_absent_after_the_first_failure(failures: int, seed: int) -> None:
    pause = backoff(failures, random.Random(seed))
    assert 0 <= pause <= CAP
    assert pause == 0 or failures >= 2


def test_the_circuit_opens_at_the_limit_and_lets_one_start_through_after_the_pause() -> None:
    tried = circuit()
    for second in (1.0, 2.0):
        tried.failed(second)
        assert tried.gate(second).closed_for == 0
    tried.failed(3.0)
    assert tried.gate(4.0).closed_for == 49.0
    assert not tried.gate(4.0).open
    assert tried.gate(60.0).closed_for == 0
    tried.failed(60.0)
    assert tried.gate(61.0).closed_for == 49.0


def test_failures_outside_the_window_do_not_count() -> None:
    tried = circuit()
    for second in (0.0, 60.0, 101.0, 162.0):
        tried.failed(second)
        assert tried.gate(second).closed_for == 0


def test_what_repeating_cannot_cure_opens_it_at_once_and_a_reset_closes_it() -> None:
    tried = circuit()
    tried.failed(1.0, permanent=True)
    assert tried.gate(2.0).closed_for > 0
    tried.reset()
    assert tried.gate(2.0).open


def test_only_a_runner_that_proved_stable_shortens_the_pause() -> None:
    tried = circuit(limit=100)
    for _ in range(5):
        tried.failed(1.0)
    tried.served(10.0, ready_since=9.0)
    assert tried.consecutive == 5
    tried.served(10.0 + STABLE, ready_since=9.0)
    assert tried.consecutive == 0
