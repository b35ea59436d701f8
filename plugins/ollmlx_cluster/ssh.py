"""Running a command on a host of a cluster, as mlx.launch would: with ssh, without a password, in bounded time."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

SECONDS: Final = 8
_MAX_ANSWER: Final = 1 << 20


async def over_ssh(host: str, command: Sequence[str]) -> str:
    """What the command (words) printed. Raises OSError with ssh's own words."""
    options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={SECONDS // 2}"]
    process = await asyncio.create_subprocess_exec(
        "ssh",
        *options,
        "--",
        host,
        shlex.join(command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), SECONDS)
    except TimeoutError:
        raise OSError(f"no answer within {SECONDS} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        words = err.decode("utf-8", "replace").strip().splitlines()
        raise OSError(words[-1][:300] if words else f"ssh ended with status {process.returncode}")
    return out[:_MAX_ANSWER].decode("utf-8", "replace")
