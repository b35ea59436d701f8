"""Importers: programs of backends that convert a foreign format, each run as a child process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ollmlx.errors import InvalidRequest, StorageError
from ollmlx.model.events import closing
from ollmlx.plugin.contracts import Guarded, RunnerCommand, unguarded
from ollmlx.protocol import ExitCode
from ollmlx.supervisor.process.child import child_environment
from ollmlx.types import PullProgress

LAST_BYTES = 4096  # of standard error, that are kept for the error message
SILENCE = 1800  # seconds without a line, after which an import is ended


class ChildImporter:
    """Implements `ollmlx.plugin.contracts.Importer` with a child process."""

    def __init__(self, command: RunnerCommand, guarded: Guarded = unguarded) -> None:
        self._command = command
        self._guarded = guarded

    async def __call__(
        self, source: Path, into: Path, *, format: str, options: Mapping[str, Any] | None = None
    ) -> AsyncIterator[PullProgress]:
        """Run the program and yield its progress. The process group is killed when the iterator is closed early.

        Raises InvalidRequest when the files are no model that it can import, StorageError for every other failure.
        """
        with tempfile.TemporaryDirectory(prefix="ollmlx-import-") as temporary:
            arguments = ["--source", str(source), "--into", str(into), "--options", json.dumps(dict(options or {}))]
            argv = (*_sandboxed(self._command, source, into, options or {}), *self._command.argv, *arguments)
            async with closing(self._run(argv, source, into, temporary)) as steps:
                async for step in steps:
                    yield step

    async def _run(self, argv: Sequence[str], source: Path, into: Path, temporary: str) -> AsyncIterator[PullProgress]:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**child_environment(), **self._command.env, "TMPDIR": temporary},
            cwd=into,
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        errors = bytearray()
        drain = asyncio.create_task(_collect(process.stderr, errors))
        try:
            with self._guarded(process.pid):
                while line := await asyncio.wait_for(process.stdout.readline(), SILENCE):
                    with suppress(ValidationError):  # a library may print lines of its own
                        yield PullProgress.model_validate_json(line)
                code = await process.wait()
                await drain
        except TimeoutError:
            raise StorageError(
                f"importing {source.name} made no progress for {SILENCE // 60} minutes", code="MDL006"
            ) from None
        except ValueError:
            raise StorageError(f"the importer of {source.name} wrote a line without end", code="MDL006") from None
        finally:
            await _end(process, drain)
        if code != 0:
            lines = errors.decode("utf-8", "replace").split("\n")
            reason = next((line.strip() for line in reversed(lines) if line.strip()), f"it exited with status {code}")
            kind = InvalidRequest if code == ExitCode.BAD_MODEL else StorageError
            named = "the file" if source.name.startswith("sha256-") else source.name  # people know no digests
            raise kind(f"cannot import {named}: {reason}", code="MDL006")


def _sandboxed(command: RunnerCommand, source: Path, into: Path, options: Mapping[str, Any]) -> list[str]:
    """Return the program that confines an importer to its files, and its arguments; none where the settings say so."""
    if command.env.get("OLLMLX_SANDBOX", "off") == "off":
        return []
    named = [value for value in options.values() if isinstance(value, str) and value.startswith("/")]
    read = [word for path in (str(source), *named) for word in ("--read", path)]
    return [sys.executable, "-P", "-m", "ollmlx.runner.sandboxed", *read, "--write", str(into), "--"]


async def _collect(stream: asyncio.StreamReader, last: bytearray) -> None:
    """Read a stream to its end, whatever its lines are, and keep its last bytes."""
    while piece := await stream.read(LAST_BYTES):
        last += piece
        del last[:-LAST_BYTES]


async def _end(process: asyncio.subprocess.Process, drain: asyncio.Task[None]) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        await _collect(process.stdout, bytearray())  # asyncio's `wait` waits for the ends of the pipes, too
        await process.wait()
    drain.cancel()
    with suppress(asyncio.CancelledError):
        await drain
