"""Leftovers of an earlier daemon: each runner has a record on disk, and the next daemon ends those that still live."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from ollmlx.supervisor.process.orphans import process_id as identity

logger = logging.getLogger(__name__)
NONCE = "OLLMLX_RUNNER_NONCE"
"""The variable by which a runner is told apart from any other program under a reused process id."""
GRACE = 2.0


@dataclass(frozen=True, slots=True)
class Record:
    """What identifies a runner beyond its process id (which is also its group)."""

    runner: str
    pid: int
    started: str
    boot: str
    nonce: str


class Records:
    """The folder `runners` of the state folder, one file a runner. Only the daemon that holds the lock touches it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, record: Record) -> None:
        """Note a runner, whole or not at all."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        final = self._path(record.pid)
        staged = final.with_suffix(".part")
        staged.touch(mode=0o600)
        staged.write_text(json.dumps(asdict(record)), encoding="utf-8")
        staged.replace(final)

    def remove(self, pid: int) -> None:
        """The runner has been reaped."""
        self._path(pid).unlink(missing_ok=True)

    async def sweep(self) -> int:
        """End every recorded runner that is still who it was; forget all records. Returns how many were ended."""
        living = [record for record in self._read() if is_ours(record)]
        for record in living:
            logger.warning("ending %s (process %d), left by an earlier daemon", record.runner, record.pid)
            _signal(record.pid, signal.SIGTERM)
        for _ in range(int(GRACE / 0.02)):
            if not any(map(is_ours, living)):
                break
            await asyncio.sleep(0.02)
        for record in filter(is_ours, living):
            _signal(record.pid, signal.SIGKILL)
        for file in [*self._folder.glob("*.json"), *self._folder.glob("*.part")]:
            file.unlink(missing_ok=True)
        return len(living)

    def _path(self, pid: int) -> Path:
        return self._folder / f"{pid}.json"

    def _read(self) -> list[Record]:
        found = []
        for file in sorted(self._folder.glob("*.json")):
            try:
                found.append(Record(**json.loads(file.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError) as error:
                logger.warning("unreadable runner record %s: %s", file, error)
        return found


def is_ours(record: Record) -> bool:
    """Same boot, same process id, same start time, same nonce in its environment. In doubt: not ours."""
    if record.boot != identity.boot() or record.started != identity.started(record.pid):
        return False
    try:
        return psutil.Process(record.pid).environ().get(NONCE) == record.nonce
    except psutil.Error:
        return False


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
