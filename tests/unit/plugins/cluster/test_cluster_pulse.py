"""Who is missing in a group, and which rank is to blame: pure."""

from __future__ import annotations

import os
import select

import pytest

from ollmlx.protocol import ExitCode
from ollmlx_cluster.liveness import RankFailures, RankLiveness
from ollmlx_cluster.mlx_launch import select_without_spinning

HOSTS = ["localhost", "node2", "node3"]


def exited(rank: int, code: int) -> str:
    return f"\033[33m[WARN] Node with rank {rank} exited with code {code} \033[0m"


def signs(roll: RankLiveness, now: float, *ranks: int) -> None:
    for rank in ranks:
        assert roll.note_line(f"ollmlx rank {rank} is alive", now)


def test_a_rank_that_is_silent_for_too_long_is_missed_by_name() -> None:
    roll = RankLiveness(HOSTS, 30, now=0)
    for second in range(1, 61):
        signs(roll, second, 0, 2)
        if second == 20:
            signs(roll, second, 1)
        assert (roll.missing(second) is None) == (second <= 50)
    assert roll.missing(61) == "rank 1 on node2 has been silent for 30 s"


def test_a_rank_that_was_never_heard_did_not_start() -> None:
    roll = RankLiveness(HOSTS, 5, now=0)
    for second in range(1, 7):
        signs(roll, second, 0, 1)
        missing = roll.missing(second)
    assert missing == "rank 2 on node3 did not start within 5 s"


def test_the_launchers_own_sleep_is_nobodys_silence() -> None:
    roll = RankLiveness(HOSTS, 30, now=0)
    signs(roll, 1, 0, 1, 2)
    assert roll.missing(1) is None
    assert roll.missing(5000) is None
    signs(roll, 5001, 0, 1, 2)
    assert roll.missing(5001) is None


@pytest.mark.parametrize(
    ("line", "sign"),
    [
        ("ollmlx rank 1 is alive", True),
        ("ollmlx rank 1 is alive\r", True),
        ("loading ollmlx rank 1 is alive", False),  # without a line's end before it: heard, and shown as well
        ("ollmlx rank 99 is alive", True),
        ("ollmlx rank x is alive", False),
        ("", False),
    ],
)
def test_signs_of_life_are_told_from_what_ranks_print(line: str, sign: bool) -> None:
    assert RankLiveness(HOSTS, 30, now=0).note_line(line, 1) is sign


@pytest.mark.parametrize(
    ("lines", "seen", "code", "words"),
    [
        ([exited(1, -9), exited(0, 70), exited(2, 70)], {0, 1, 2}, 70, "rank 1 on node2 was lost (exit status -9)"),
        ([exited(0, 70), exited(2, 70), exited(1, -9)], {0, 1, 2}, 70, "rank 1 on node2 was lost (exit status -9)"),
        ([exited(1, 255)], {0}, 70, "rank 1 on node2 could not be started with ssh; `ollmlx doctor --online` says why"),
        ([exited(1, 255)], {0, 1}, 70, "rank 1 on node2 was lost (exit status 255)"),
        ([exited(2, 127)], {0}, ExitCode.USAGE, "rank 2 on node3 found no ollmlx at the path it has here"),
        (
            ["rank 2: there is no model in /m", exited(0, 70), exited(2, 65)],
            {0, 1, 2},
            ExitCode.BAD_MODEL,
            "there is no model in /m",
        ),
        ([exited(0, 70)], {0}, 70, "rank 0 on localhost was lost"),
        (
            ["prterun noticed that process rank 1 with PID 7 on node vm exited on"],
            {0, 1},
            70,
            "rank 1 on node2 was lost",
        ),
        (["rank 0: no memory", exited(0, 70)], {0}, 70, "rank 0 on localhost: no memory"),
    ],
)
def test_the_rank_that_went_first_is_named_with_what_would_help(
    lines: list[str], seen: set[int], code: int, words: str
) -> None:
    losses = RankFailures(HOSTS)
    for line in lines:
        assert losses.note_line(line) is line.startswith("\033")
    verdict = losses.verdict(seen)
    assert verdict is not None
    assert verdict[0] == code
    assert words in verdict[1]


def test_a_group_that_ended_by_itself_lost_nobody() -> None:
    losses = RankFailures(HOSTS)
    assert losses.note_line("\033[33m[WARN] Node with rank 1 was killed \033[0m")
    assert losses.verdict({0}) is None


def test_waiting_for_input_to_be_taken_does_not_keep_a_core_busy() -> None:
    readable, writable = os.pipe()
    try:
        assert select.select([readable], [writable], [], 1) == ([], [writable], [])
        assert select_without_spinning([readable], [writable], [], 0.01) == ([], [writable], [])
        os.write(writable, b"x")
        assert select_without_spinning([readable], [writable], [], 60) == ([readable], [writable], [])
        assert select_without_spinning([readable], [], [], 60) == ([readable], [], [])
    finally:
        os.close(readable)
        os.close(writable)
