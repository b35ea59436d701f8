"""Importers: a backend's program that turns a foreign format into its own, run as a child process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ollmlx.errors import InvalidRequest, StorageError
from ollmlx.plugin.contracts import Guarded, RunnerCommand, unguarded
from ollmlx.protocol import ExitCode
from ollmlx.types import PullProgress

LAST_WORDS = 20  # lines of standard error kept for the message


class Importers:
    """Makes importers. `environment` is the allow-listed environment every child process gets."""

    def __init__(self, environment: Callable[[], dict[str, str]], guarded: Guarded = unguarded) -> None:
        self._environment = environment
        self._guarded = guarded

    def make(self, command: RunnerCommand) -> ChildImporter:
        return ChildImporter(command, {**self._environment(), **command.env}, self._guarded)


class ChildImporter:
    """One backend's importer, as `ollmlx.plugin.contracts.Importer` describes it."""

    def __init__(self, command: RunnerCommand, environment: dict[str, str], guarded: Guarded = unguarded) -> None:
        self._command = command
        self._environment = environment
        self._guarded = guarded

    async def __call__(
        self, source: Path, into: Path, *, format: str, options: Mapping[str, Any] | None = None
    ) -> AsyncIterator[PullProgress]:
        """Run the program; yield its progress. The process group is killed when the caller stops listening."""
        arguments = ["--source", str(source), "--into", str(into), "--options", json.dumps(dict(options or {}))]
        process = await asyncio.create_subprocess_exec(
            *self._command.argv,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
            cwd=into,
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        words: list[str] = []
        drain = asyncio.create_task(_tail(process.stderr, words))
        try:
            with self._guarded(process.pid):
                async for line in process.stdout:
                    if progress := _progress(line):
                        yield progress
                code = await process.wait()
                await drain
        finally:
            await _end(process, drain)
        if code != 0:
            said = words[-1] if words else f"the importer ended with status {code}"
            error = InvalidRequest if code == ExitCode.BAD_MODEL else StorageError
            raise error(f"cannot import {source.name}: {said}", code="MDL006")


def _progress(line: bytes) -> PullProgress | None:
    try:
        return PullProgress.model_validate_json(line)
    except ValidationError:
        return None  # a library's own chatter on standard output


async def _tail(stream: asyncio.StreamReader, words: list[str]) -> None:
    async for line in stream:
        text = line.decode("utf-8", "replace").strip()
        if text:
            words.append(text)
            del words[:-LAST_WORDS]


async def _end(process: asyncio.subprocess.Process, drain: asyncio.Task[None]) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    drain.cancel()
    with suppress(asyncio.CancelledError):
        await drain
