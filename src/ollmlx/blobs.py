"""Uploaded files, by digest, until a model is created from them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from ollmlx.errors import InvalidRequest, NotFound, StorageError
from ollmlx.names import parse_digest


class Blobs:
    """A folder of `sha256-<64 hex>` files, private to the user. Every path is made from a checked digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: str) -> Path:
        """Where a blob is. Raises InvalidRequest for a malformed digest, NotFound when it was never uploaded."""
        path = self._folder / f"sha256-{parse_digest(digest)}"
        if not path.is_file():
            raise NotFound(f'blob "{digest}" not found')
        return path

    async def write(self, digest: str, body: AsyncIterator[bytes]) -> bool:
        """Store a body under its digest; False when it was there already. Raises InvalidRequest on a mismatch."""
        wanted = parse_digest(digest)
        target = self._folder / f"sha256-{wanted}"
        if target.is_file():
            return False
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, staged = tempfile.mkstemp(dir=self._folder, prefix=".upload-")
        except OSError as error:
            raise StorageError(f"cannot store blobs: {error.strerror}", code="STO003") from error
        seen = hashlib.sha256()
        try:
            with os.fdopen(handle, "wb") as file:
                async for chunk in body:
                    seen.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
            if seen.hexdigest() != wanted:
                raise InvalidRequest(f"digest mismatch, expected sha256:{wanted}, got sha256:{seen.hexdigest()}")
            Path(staged).replace(target)
        except OSError as error:
            raise StorageError(f"cannot store blobs: {error.strerror}", code="STO004") from error
        finally:
            Path(staged).unlink(missing_ok=True)
        return True
