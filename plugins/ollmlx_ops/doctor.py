"""The doctor for the web page: `ollmlx doctor` in a child process, one at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from ollmlx.errors import Busy, OllmlxError, Timeout

PATIENCE = 60.0
"""Seconds for a child process; the doctor itself ends within five on a machine that is not busy."""
WRONG_USAGE = 2


class DoctorRuns:
    """Runs the doctor. `guarded` ends the child should the daemon exit."""

    def __init__(self, guarded: Callable[[int], AbstractContextManager[None]]) -> None:
        self.options: Sequence[str] = ()
        """The options of the daemon's command line about settings."""
        self._guarded = guarded
        self._one = asyncio.Lock()

    async def report(self, key: str) -> bytes:
        """Return the report as JSON. `key`: the API key with which the doctor asks the daemon."""
        return await self._run("--json", key=key)

    async def page(self, code: str) -> bytes | None:
        """Return the page of a code in Markdown; None if there is no such code."""
        return await self._run("--explain", code) or None

    async def bundle(self, key: str) -> bytes:
        """Return the zip file of `ollmlx doctor --bundle`."""
        with tempfile.TemporaryDirectory(prefix="ollmlx-bundle-") as folder:
            file = Path(folder) / "bundle.zip"
            await self._run("--bundle", str(file), key=key)
            try:
                return await asyncio.to_thread(file.read_bytes)
            except FileNotFoundError:
                raise OllmlxError("the doctor wrote no bundle", hint="ollmlx doctor --bundle FILE.zip") from None

    async def _run(self, *arguments: str, key: str = "") -> bytes:
        """Return what the doctor prints; nothing for wrong usage. Raises Busy while another one runs."""
        if self._one.locked():
            raise Busy("the doctor is examining this machine already", retry_after=5)
        async with self._one:
            environment = {**os.environ, "OLLAMA_API_KEY": key} if key else dict(os.environ)
            return await self._output(arguments, environment)

    async def _output(self, arguments: Sequence[str], environment: Mapping[str, str]) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "ollmlx", *self.options, "doctor", *arguments),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            with self._guarded(process.pid):
                output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
        except TimeoutError:
            raise Timeout(f"the doctor was not done after {PATIENCE:.0f} s", hint="ollmlx doctor --deep") from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode not in (0, 1, WRONG_USAGE):
            raise OllmlxError(f"the doctor ended with exit status {process.returncode}", hint="ollmlx doctor")
        return b"" if process.returncode == WRONG_USAGE else output
