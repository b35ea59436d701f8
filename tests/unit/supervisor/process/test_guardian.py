"""The guardian's orders, and whom it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from ollmlx.supervisor.process import memory_use as footprint
from ollmlx.supervisor.process.orphans import guardian
from ollmlx.supervisor.process.orphans import process_id as identity


def test_orders_add_and_remove_groups_and_nonsense_is_passed_over() -> None:
    assert guardian.read([b"+5 100\n", b"+6 200\n", b"-5\n", b"-9\n", b"what is this\n", b"\n"]) == {6: "200"}


def test_only_groups_that_are_still_themselves_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []

    def killpg(group: int, number: int) -> None:
        sent.append((group, number))
        if number == 0:
            raise ProcessLookupError

    monkeypatch.setattr(os, "killpg", killpg)
    starts = {1: "a", 2: "reused", 3: None}
    guardian.end({1: "a", 2: "b", 3: "c"}, lambda pid: starts[pid], grace=1.0)
    ended = {(group, number) for group, number in sent if number}
    assert ended == {(group, number) for group in (1, 3) for number in (signal.SIGTERM, signal.SIGKILL)}


def test_a_process_has_one_start_time_and_a_missing_one_has_none() -> None:
    mine = identity.started(os.getpid())
    assert mine is not None
    assert mine == identity.started(os.getpid())
    assert identity.started(2**22 + 1) is None
    assert identity.boot() == identity.boot() != ""


def test_a_platform_without_start_times_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "PLATFORM", "elsewhere")
    assert identity.started(os.getpid()) is None
    assert identity.boot() == "unknown"


def test_this_process_weighs_something_and_a_missing_one_nothing() -> None:
    mine = footprint.footprint(os.getpid())
    assert mine is not None
    assert mine > 1024 * 1024
    assert footprint.footprint(2**22 + 1) is None


def test_mapped_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    status = "RssAnon:\t    100 kB\nRssFile:\t 9000 kB\nRssShmem:\t     20 kB\n"
    (tmp_path / "7/status").write_text(status, encoding="ascii")
    assert footprint._linux(7, tmp_path) == 120 * 1024
