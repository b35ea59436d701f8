"""Protection against orphans: the guardian's input, the groups that it ends, and the identity of a process."""

from __future__ import annotations

import os
import signal

import pytest

from ollmlx.supervisor.process.guardian import boot_id, end_groups, process_start, read_groups


def test_lines_add_and_remove_groups_and_other_lines_are_ignored() -> None:
    assert read_groups([b"+5 100\n", b"+6 200\n", b"-5\n", b"-9\n", b"what is this\n", b"\n"]) == {6: "200"}


def test_a_group_under_a_reused_process_id_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []

    def killpg(group: int, number: int) -> None:
        sent.append((group, number))
        if number == 0:
            raise ProcessLookupError

    monkeypatch.setattr(os, "killpg", killpg)
    starts = {1: "a", 2: "reused", 3: None}
    end_groups({1: "a", 2: "b", 3: "c"}, lambda pid: starts[pid], grace=1.0)
    ended = {(group, number) for group, number in sent if number}
    assert ended == {(group, number) for group in (1, 3) for number in (signal.SIGTERM, signal.SIGKILL)}


def test_a_process_has_one_start_and_a_missing_process_has_none() -> None:
    own = process_start(os.getpid())
    assert own is not None
    assert own == process_start(os.getpid())
    assert process_start(2**22 + 1) is None
    assert boot_id() == boot_id() != ""
