"""Uploaded files: stored under their digest or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollmlx.blobs import Blobs
from ollmlx.errors import InvalidRequest, NotFound, StorageError

CONTENT = b"weights"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


async def body(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_blob_is_stored_once_and_found_by_its_digest(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    assert await blobs.write(DIGEST, body(b"wei", b"ghts")) is True
    assert await blobs.write(DIGEST, body(CONTENT)) is False
    assert blobs.path(DIGEST).read_bytes() == CONTENT
    assert (tmp_path / "blobs").stat().st_mode & 0o077 == 0


async def test_a_body_that_is_not_what_its_digest_says_leaves_nothing(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    with pytest.raises(InvalidRequest, match="digest mismatch"):
        await blobs.write(DIGEST, body(b"other"))
    assert list(tmp_path.iterdir()) == []


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"wei"
        raise ConnectionResetError

    with pytest.raises(StorageError):
        await Blobs(tmp_path).write(DIGEST, broken())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(33)
@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "x", "sha256:" + "A" * 64])
def test_a_digest_cannot_be_a_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(InvalidRequest):
        Blobs(tmp_path).path(digest)


def test_an_unknown_blob_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f'blob "{DIGEST}" not found'):
        Blobs(tmp_path).path(DIGEST)
