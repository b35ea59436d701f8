"""Protection against orphans: the guardian's input, the groups that it ends, and the identity of a process."""

from __future__ import annotations

import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import InvalidRequest, OllmlxError, StorageError
from ollmlx.plugin.contracts import RunnerCommand
from ollmlx.protocol import ExitCode
from ollmlx.supervisor.process import importers
from ollmlx.supervisor.process.guarded import guarded_group
from ollmlx.supervisor.process.guardian import boot_id, end_groups, process_start, read_groups
from ollmlx.supervisor.process.importers import ChildImporter
from ollmlx.supervisor.process.state_folder import MAX_PATH, SocketDir
from ollmlx.supervisor.process.tail import BURST, MAX_LINE, MAX_LINES, OutputTail, clean
from ollmlx.testing.waiting import wait_until
from ollmlx.types import PullProgress


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


COMMAND = """
import subprocess, sys, time
from ollmlx.supervisor.process.guarded import guarded_group
child = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600"], start_new_session=True)
with guarded_group(child.pid):
    print(child.pid, flush=True)
    time.sleep(600)
"""


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_killed_command_leaves_no_process_even_one_that_ignores_sigterm() -> None:
    with subprocess.Popen([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        pid = int(command.stdout.readline())
        command.kill()
    wait_until(lambda: not _runs(pid))


def test_outside_of_the_context_the_process_lives_on() -> None:
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        with guarded_group(child.pid):
            pass
        assert child.poll() is None
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


async def imported(program: str, folder: Path) -> list[PullProgress]:
    """Run a Python program as an importer. Returns its progress."""
    command = RunnerCommand(argv=(sys.executable, "-I", "-S", "-c", program))
    return [step async for step in ChildImporter(command)(folder / "model.gguf", folder, format="gguf")]


async def test_lines_of_progress_are_yielded_and_other_lines_are_ignored(tmp_path: Path) -> None:
    program = """print('loading...'); print('{"status": "half", "total": 2, "completed": 1}')"""
    assert await imported(program, tmp_path) == [PullProgress(status="half", total=2, completed=1)]


@pytest.mark.finding("MDL006")
@pytest.mark.parametrize(("status", "kind"), [(int(ExitCode.BAD_MODEL), InvalidRequest), (1, StorageError)])
async def test_a_failed_import_reports_the_last_line_of_errors(
    status: int, kind: type[OllmlxError], tmp_path: Path
) -> None:
    program = f"import sys; print('tensor 7 is cut short', file=sys.stderr); sys.exit({status})"
    with pytest.raises(kind, match=r"cannot import model\.gguf: tensor 7 is cut short") as failed:
        await imported(program, tmp_path)
    assert failed.value.code == "MDL006"


async def test_an_importer_that_writes_a_flood_or_a_line_without_end_is_drained(tmp_path: Path) -> None:
    flood = "import sys; sys.stderr.write('x' * 5_000_000 + chr(10) + 'the reason'); sys.exit(1)"
    with pytest.raises(StorageError, match="the reason"):
        await imported(flood, tmp_path)
    with pytest.raises(StorageError, match="a line without end"):
        await imported("import sys; sys.stdout.write('x' * 5_000_000)", tmp_path)


async def test_an_importer_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importers, "SILENCE", 0)
    with pytest.raises(StorageError, match="made no progress"):
        await imported("import time; time.sleep(600)", tmp_path)


async def test_a_failure_without_output_reports_its_status(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="exited with status 9"):
        await imported("raise SystemExit(9)", tmp_path)


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("s")


def test_a_socket_listens_in_a_private_folder(short: Path) -> None:
    sockets = SocketDir.create(short)
    listener, path = sockets.listen()
    with listener, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(os.fspath(path))
        assert stat.S_IMODE(sockets.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    sockets.remove()
    assert not sockets.folder.exists()


def test_a_long_state_folder_is_not_used_for_sockets(tmp_path: Path, short: Path) -> None:
    sockets = SocketDir.create(tmp_path / ("long" * 30), fallback=short)
    assert sockets.folder.is_relative_to(short)
    listener, path = sockets.listen()
    listener.close()
    assert len(os.fsencode(path)) <= MAX_PATH
    sockets.remove()


def test_sockets_of_an_earlier_daemon_are_removed_and_other_files_stay(short: Path) -> None:
    (short / "run").mkdir()
    (short / "run/stale.sock").touch()
    (short / "run/note.txt").touch()
    sockets = SocketDir.create(short)
    assert [file.name for file in sockets.folder.iterdir()] == ["note.txt"]


def test_a_folder_that_is_a_link_is_not_trusted(tmp_path: Path, short: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (short / "run").symlink_to(tmp_path / "elsewhere")
    sockets = SocketDir.create(short, fallback=short)
    assert sockets.folder != short / "run"
    sockets.remove()


def test_without_any_usable_folder_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="sockets"):
        SocketDir.create(tmp_path / ("long" * 30), fallback=tmp_path / ("far" * 40))


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
