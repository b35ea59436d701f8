"""Silent ranks are named, and the rank that ended first is found. Pure."""

from __future__ import annotations

import os
import select

import pytest

from ollmlx.protocol import ExitCode
from ollmlx_cluster.messages import RankFailures, RankLiveness
from ollmlx_cluster.mlx_launch import select_without_spinning

HOSTS = ["localhost", "node2", "node3"]


def exited(rank: int, code: int) -> str:
    return f"\033[33m[WARN] Node with rank {rank} exited with code {code} \033[0m"


def write_lines(liveness: RankLiveness, now: float, *ranks: int) -> None:
    for rank in ranks:
        assert liveness.note_line(f"ollmlx rank {rank} is alive", now)


def test_a_rank_that_is_silent_for_too_long_is_named() -> None:
    liveness = RankLiveness(HOSTS, 30, now=0)
    for second in range(1, 61):
        write_lines(liveness, second, 0, 2)
        if second == 20:
            write_lines(liveness, second, 1)
        assert (liveness.missing(second) is None) == (second <= 50)
    assert liveness.missing(61) == "rank 1 on node2 has been silent for 30 s"


def test_a_rank_that_never_wrote_a_line_did_not_start() -> None:
    liveness = RankLiveness(HOSTS, 5, now=0)
    for second in range(1, 7):
        write_lines(liveness, second, 0, 1)
        missing = liveness.missing(second)
    assert missing == "rank 2 on node3 did not start within 5 s"


def test_a_gap_in_the_launchers_own_polling_does_not_count_as_silence() -> None:
    liveness = RankLiveness(HOSTS, 30, now=0)
    write_lines(liveness, 1, 0, 1, 2)
    assert liveness.missing(1) is None
    assert liveness.missing(5000) is None
    write_lines(liveness, 5001, 0, 1, 2)
    assert liveness.missing(5001) is None


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
def test_lines_of_liveness_are_separated_from_other_output(line: str, sign: bool) -> None:
    assert RankLiveness(HOSTS, 30, now=0).note_line(line, 1) is sign


LOST = "rank 1 on node2 was lost"
KILLED = [exited(1, -9), exited(0, 70), exited(2, 70)]
BAD_MODEL = ["rank 2: there is no model in /m", exited(0, 70), exited(2, 65)]
MPI = "prterun noticed that process rank 1 with PID 7 on node vm exited on"
NO_SSH = "rank 1 on node2 could not be started with ssh; `ollmlx doctor --online` shows why"


@pytest.mark.parametrize(
    ("lines", "seen", "code", "words"),
    [
        (KILLED, {0, 1, 2}, 70, f"{LOST} (exit status -9)"),
        (KILLED[::-1], {0, 1, 2}, 70, f"{LOST} (exit status -9)"),
        ([exited(1, 255)], {0}, 70, NO_SSH),
        ([exited(1, 255)], {0, 1}, 70, f"{LOST} (exit status 255)"),
        ([exited(2, 127)], {0}, ExitCode.USAGE, "rank 2 on node3 found no ollmlx at the path it has here"),
        (BAD_MODEL, {0, 1, 2}, ExitCode.BAD_MODEL, "there is no model in /m"),
        ([exited(0, 70)], {0}, 70, "rank 0 on localhost was lost"),
        ([MPI], {0, 1}, 70, LOST),
        (["rank 0: no memory", exited(0, 70)], {0}, 70, "rank 0 on localhost: no memory"),
    ],
)
def test_the_rank_that_ended_first_is_named_with_a_next_step(
    lines: list[str], seen: set[int], code: int, words: str
) -> None:
    failures = RankFailures(HOSTS)
    for line in lines:
        assert failures.note_line(line) is line.startswith("\033")
    verdict = failures.verdict(seen)
    assert verdict is not None
    assert verdict[0] == code
    assert words in verdict[1]


def test_a_group_that_ended_by_itself_has_no_failed_rank() -> None:
    failures = RankFailures(HOSTS)
    assert failures.note_line("\033[33m[WARN] Node with rank 1 was killed \033[0m")
    assert failures.verdict({0}) is None


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
