"""Uploads are stored under their digest, or not at all, and removed later."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollmlx.errors import InvalidRequest, NotFound, OllmlxError, StorageError
from ollmlx.storekit.blobs import KEEP_SECONDS, Blobs

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


async def broken() -> AsyncIterator[bytes]:
    yield b"wei"
    raise ConnectionResetError


@pytest.mark.parametrize(
    ("sent", "error", "words"),
    [(body(b"other"), InvalidRequest, "digest mismatch"), (broken(), StorageError, "cannot store blobs")],
    ids=["another digest", "an interrupted upload"],
)
async def test_a_body_that_is_not_the_blob_leaves_nothing(
    tmp_path: Path, sent: AsyncIterator[bytes], error: type[OllmlxError], words: str
) -> None:
    with pytest.raises(error, match=words):
        await Blobs(tmp_path).write(DIGEST, sent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(33)
@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "x", "sha256:" + "A" * 64])
def test_a_digest_cannot_be_a_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(InvalidRequest):
        Blobs(tmp_path).path(digest)


def test_an_unknown_blob_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f'blob "{DIGEST}" not found'):
        Blobs(tmp_path).path(DIGEST)


async def test_an_upload_is_removed_an_hour_after_its_last_use(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    await blobs.write(DIGEST, body(CONTENT))
    file = blobs.path(DIGEST)
    os.utime(file, (1000, 1000))
    (tmp_path / ".upload-broken-off").touch()
    (tmp_path / ".adapter-left").mkdir()
    os.utime(tmp_path / ".upload-broken-off", (1000, 1000))
    os.utime(tmp_path / ".adapter-left", (1000, 1000))
    assert blobs.prune(1000 + KEEP_SECONDS) == 0
    blobs.path(DIGEST)
    assert file.stat().st_mtime == 1000
    assert blobs.prune(1001 + KEEP_SECONDS) == 2
    assert list(tmp_path.iterdir()) == [file]
    assert blobs.prune(time.time() + KEEP_SECONDS + 1) == 1
    assert list(tmp_path.iterdir()) == []
    assert Blobs(tmp_path / "never-there").prune(0) == 0


async def test_a_model_made_from_an_upload_keeps_its_file(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    await blobs.write(DIGEST, body(CONTENT))
    (tmp_path / "weights").hardlink_to(blobs.path(DIGEST))
    assert blobs.prune(time.time() + KEEP_SECONDS + 1) == 1
    assert (tmp_path / "weights").read_bytes() == CONTENT
