"""Importers are child processes: their lines are progress, and their exit status is the result."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ollmlx.errors import InvalidRequest, OllmlxError, StorageError
from ollmlx.plugin.contracts import RunnerCommand
from ollmlx.protocol import ExitCode
from ollmlx.supervisor.process import importers
from ollmlx.supervisor.process.importers import ChildImporter
from ollmlx.types import PullProgress


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
