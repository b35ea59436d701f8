"""Uploaded files, stored under their digest until an hour after their last use."""

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
from ollmlx.storekit.files import check_space, replace_whole, storage_errors, sync_file
from ollmlx.text.quantities import format_size

KEEP_SECONDS = 3600.0
"""Seconds that an upload, complete or not, stays after its last use.

Models created from an upload have links of their own. An upload that stayed longer would keep their disk space in use
after the models are removed."""


CHECK_EVERY = 16 << 20
"""Bytes of an upload after which the space on the disk is looked at again."""


class Blobs:
    """A folder of files named `sha256-<64 hex>`, readable by its user only. Paths are made from checked digests.

    limit: bytes that its files may have in all; 0: what is free on the disk.
    """

    def __init__(self, folder: Path, limit: int = 0) -> None:
        self._folder = folder
        self._limit = limit

    def path(self, digest: str) -> Path:
        """Return the path of a blob. Raises InvalidRequest for a malformed digest, NotFound if it was not uploaded."""
        path = self._path(digest)
        if not path.is_file():
            raise NotFound(f'blob "{digest}" not found')
        _mark_used(path)
        return path

    async def write(self, digest: str, body: AsyncIterator[bytes]) -> bool:
        """Store a body under its digest. Returns False if the blob is there already.

        The body is read to its end in both cases: some clients do not read a response while they send.
        Raises InvalidRequest if the body does not have this digest, StorageError if it cannot be stored.
        """
        target = self._path(digest)
        if target.is_file():
            async for _ in body:
                _mark_used(target)
            return False
        staged: Path | None = None
        seen = hashlib.sha256()
        try:
            with storage_errors("cannot store blobs"):
                with await asyncio.to_thread(self._stage) as file:
                    staged = Path(file.name)
                    written = 0
                    async for chunk in body:
                        if written // CHECK_EVERY != (written + len(chunk)) // CHECK_EVERY or not written:
                            await asyncio.to_thread(self._check_room, len(chunk))
                        seen.update(chunk)
                        written += len(chunk)
                        await asyncio.to_thread(file.write, chunk)
                    await asyncio.to_thread(sync_file, file)
                if seen.hexdigest() != parse_digest(digest):
                    raise InvalidRequest(f"digest mismatch, expected {digest}, got sha256:{seen.hexdigest()}")
                await asyncio.to_thread(replace_whole, staged, target)
        finally:
            if staged is not None:
                with contextlib.suppress(OSError):  # what is left is removed like every upload
                    await asyncio.to_thread(staged.unlink, missing_ok=True)
        return True

    def prune(self, now: float) -> int:
        """Remove uploads that were not used for `KEEP_SECONDS`, and return their number. `now`: seconds since 1970."""
        removed = 0
        for file in self._folder.glob("*"):
            with contextlib.suppress(OSError):
                found = file.stat()
                if max(found.st_atime, found.st_mtime) < now - KEEP_SECONDS:
                    shutil.rmtree(file) if file.is_dir() else file.unlink()  # a folder is an adapter being uploaded
                    removed += 1
        return removed

    def _check_room(self, needed: int) -> None:
        """Raise StorageError when the disk or the limit has no room for `needed` bytes more."""
        check_space(self._folder, needed)
        if not self._limit:
            return
        held = sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())
        if held + needed > self._limit:
            raise StorageError(
                f"uploads may take {format_size(self._limit)} in all, and take {format_size(held)}",
                hint="try again when they have become models and an hour has passed; [security] upload_limit",
            )

    def _path(self, digest: str) -> Path:
        return self._folder / f"sha256-{parse_digest(digest)}"

    def _stage(self) -> IO[bytes]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return tempfile.NamedTemporaryFile(dir=self._folder, prefix=".upload-", delete=False)


def _mark_used(path: Path) -> None:
    """Set a file's access time to now. Its modification time stays: a model may be another link to the same file."""
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
