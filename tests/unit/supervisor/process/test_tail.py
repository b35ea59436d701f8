"""The output of a process: kept in bounds, logged in bounds, and searched for the cause of an exit."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.supervisor.process.tail import BURST, MAX_LINE, MAX_LINES, OutputTail, clean


class Log(logging.Logger):
    """A logger that keeps its records."""

    def __init__(self) -> None:
        super().__init__("test", logging.DEBUG)
        self.written: list[str] = []
        self.read: list[tuple[str, object]] = []

    def handle(self, record: logging.LogRecord) -> None:
        self.written.append(record.getMessage())
        self.read.append((record.levelname, getattr(record, "request", None)))


def tail() -> tuple[OutputTail, Log]:
    log = Log()
    return OutputTail("parrot#1", log, lambda: 0.0), log


@given(st.binary(max_size=400).flatmap(lambda data: st.tuples(st.just(data), st.lists(st.integers(0, 400)))))
def test_lines_do_not_depend_on_the_pieces_in_which_they_arrive(case: tuple[bytes, list[int]]) -> None:
    data, cuts = case
    whole, pieces = tail()[0], tail()[0]
    whole.feed(2, data)
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        pieces.feed(2, data[begin:end])
    whole.end()
    pieces.end()
    assert whole.last_lines(MAX_LINES) == pieces.last_lines(MAX_LINES)


@pytest.mark.fault(14)
@pytest.mark.parametrize("piece", [b"noise " * 20 + b"\n", b"no line end ", b"\n"])
def test_a_flood_is_kept_and_logged_in_bounds(piece: bytes) -> None:
    flooded, log = tail()
    chunk = piece * (65536 // len(piece))
    for _ in range(100):
        flooded.feed(2, chunk)
    flooded.feed(2, b"\nthe end\n")
    flooded.end()
    assert len(flooded.last_lines(MAX_LINES)) <= MAX_LINES
    assert max(map(len, flooded.last_lines(MAX_LINES))) <= MAX_LINE
    assert flooded.last_lines(MAX_LINES)[-1] == "the end"
    assert len(log.written) <= BURST + 1


def test_lines_left_out_of_the_log_are_counted() -> None:
    flooded, log = tail()
    flooded.feed(1, b"x\n" * (BURST + 50))
    flooded.end()
    assert log.written[-1].endswith("(50 lines left out)")


def test_both_streams_keep_their_own_lines() -> None:
    both, _ = tail()
    both.feed(1, b"one ")
    both.feed(2, b"two\n")
    both.feed(1, b"three\n")
    assert both.last_lines(MAX_LINES) == ("two", "one three")


def test_the_likely_cause_is_above_a_stack_dump_or_else_the_last_line() -> None:
    crashed, _ = tail()
    crashed.feed(
        2, b"loading\nFatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n  File x\n"
    )
    assert crashed.likely_cause() == "Fatal Python error: Segmentation fault"
    ended, _ = tail()
    ended.feed(2, b"ValueError: early\nbad model: the file is damaged\n")
    assert ended.likely_cause() == "bad model: the file is damaged"
    assert tail()[0].likely_cause() is None


SAID = b"""loading weights
INFO [-] ollmlx.runner: ready
DEBUG [r7] ollmlx.runner: generate: begun
ERROR [r7] ollmlx.runner: the engine failed
Traceback (most recent call last):
  File "x.py", line 1, in f
RuntimeError: a bug
something native
Fatal Python error: Aborted
  File "x.py", line 1, in f
"""


def test_lines_are_logged_with_their_level_and_their_request() -> None:
    loading, log = tail()
    loading.feed(2, SAID)
    assert [level for level, _ in log.read] == ["INFO", "INFO", "DEBUG", *["ERROR"] * 4, "INFO", *["ERROR"] * 2]
    assert [about for _, about in log.read] == [None] * 2 + ["r7"] * 5 + [None] * 3, (
        "None: the request that caused the load"
    )
    log.read.clear()
    loading.mark_loaded()
    loading.feed(2, SAID)
    assert [about for _, about in log.read] == [""] * 2 + ["r7"] * 5 + [""] * 3


@pytest.mark.fault(45)
def test_control_bytes_do_not_reach_the_log() -> None:
    assert clean(b"\x1b[31mred\x1b[0m \x00\x07\rx \xff") == "red x \N{REPLACEMENT CHARACTER}"
