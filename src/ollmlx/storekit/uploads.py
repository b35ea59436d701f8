"""Uploaded files, by digest, for as long as models may be created from them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from ollmlx.errors import InvalidRequest, NotFound, StorageError
from ollmlx.model.names import parse_digest

KEPT = 3600.0
"""Seconds that an upload, whole or broken off, stays after it was last used. Models made from it have links of their
own; kept longer, it would hold their disk space when they are removed."""


class Blobs:
    """A folder of `sha256-<64 hex>` files, private to the user. Every path is made from a checked digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: str) -> Path:
        """Where a blob is. Raises InvalidRequest for a malformed digest, NotFound when it was never uploaded."""
        path = self._path(digest)
        if not path.is_file():
            raise NotFound(f'blob "{digest}" not found')
        _use(path)
        return path

    async def write(self, digest: str, body: AsyncIterator[bytes]) -> bool:
        """Store a body under its digest; False when it was there already. Raises InvalidRequest on a mismatch.

        The body is taken to its end in both cases: some clients hear no answer while they write.
        """
        target = self._path(digest)
        if target.is_file():
            async for _ in body:
                _use(target)
            return False
        staged: Path | None = None
        try:
            with await asyncio.to_thread(self._stage) as file:
                staged = Path(file.name)
                seen = await _copy(body, file)
            if seen != parse_digest(digest):
                raise InvalidRequest(f"digest mismatch, expected {digest}, got sha256:{seen}")
            await asyncio.to_thread(staged.replace, target)
        except OSError as error:
            raise StorageError(f"cannot store blobs: {error.strerror}", code="STO004") from error
        finally:
            if staged is not None:
                await asyncio.to_thread(staged.unlink, missing_ok=True)
        return True

    def prune(self, now: float) -> int:
        """Remove what nobody has used for `KEPT` seconds; how many files that were. `now` is the wall clock."""
        removed = 0
        for file in self._folder.glob("*"):
            with contextlib.suppress(OSError):
                found = file.stat()
                if max(found.st_atime, found.st_mtime) < now - KEPT:
                    shutil.rmtree(file) if file.is_dir() else file.unlink()  # a folder: an adapter on its way
                    removed += 1
        return removed

    def _path(self, digest: str) -> Path:
        return self._folder / f"sha256-{parse_digest(digest)}"

    def _stage(self) -> IO[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return tempfile.NamedTemporaryFile(dir=self._folder, prefix=".upload-", delete=False)


def _use(path: Path) -> None:
    """Note that a file is needed. The time of its last change stays: a model may share it."""
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


async def _copy(body: AsyncIterator[bytes], file: IO[bytes]) -> str:
    """Write a body to a file; the sha256 of what was written, in hexadecimal."""
    seen = hashlib.sha256()
    async for chunk in body:
        seen.update(chunk)
        await asyncio.to_thread(file.write, chunk)
    return seen.hexdigest()
