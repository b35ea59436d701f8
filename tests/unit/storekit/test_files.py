"""Files, receipts, staging folders and locks that stores share."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import InvalidRequest, NotFound, OllmlxError, StorageError
from ollmlx.storekit import (
    FoundFile,
    StagingArea,
    link_or_copy,
    list_files,
    locked,
    only_file,
    read_json,
    read_receipt,
    safe_path,
    sha256_of,
    storage_error,
    storage_errors,
    with_hashes,
    write_receipt,
    write_whole,
)
from ollmlx.storekit.blobs import KEEP_SECONDS, Blobs
from ollmlx.testing import eventually
from ollmlx.types import FetchedFile, FetchReceipt


@pytest.mark.fault(27)
@pytest.mark.finding("STO003", "STO004")
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (errno.ENOSPC, "STO003", "full"),
        (errno.EACCES, "STO004", "denied"),
        (errno.EIO, "STO004", "error"),
        (errno.ENOTDIR, "STO002", "directory"),
    ],
)
def test_errors_of_the_file_system_get_a_code(number: int, code: str, word: str) -> None:
    found = storage_error(OSError(number, os.strerror(number)), "cannot write")
    assert found.code == code
    assert word in found.message.lower()
    with pytest.raises(StorageError, match="cannot write"), storage_errors("cannot write"):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"[]", "is not a JSON object"),
        (b'{"a": "' + b"x" * 100 + b'"}', "is too large"),
    ],
)
def test_json_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    assert read_json(tmp_path, "config.json") is None
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(StorageError, match=f"{tmp_path.name}/config.json {words}") as caught:
        read_json(tmp_path, "config.json", 100_000 if content[:1] == b"[" else 100)
    assert caught.value.code == "MDL003"


def test_a_damaged_receipt_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    assert read_receipt(path) is None
    path.write_bytes(b"{")
    assert read_receipt(path) is None
    receipt = FetchReceipt(source="hub:org/name@main", revision="abc")
    write_receipt(path, receipt)
    assert read_receipt(path) == receipt
    assert [file.name for file in tmp_path.iterdir()] == ["receipt.json"]


def test_files_with_a_known_size_and_time_are_not_hashed_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    files = list_files(tmp_path, tmp_path)
    known = FetchedFile(path="a", size=1, mtime_ns=files[0].mtime_ns, sha256="known")
    stale = FetchedFile(path="b", size=2, mtime_ns=files[1].mtime_ns, sha256="stale")
    assert [file.sha256 for file in with_hashes(tmp_path, files, (known, stale))] == [
        "known",
        sha256_of(tmp_path / "b"),
    ]


def test_hidden_files_deep_folders_and_the_omitted_file_are_not_listed(tmp_path: Path) -> None:
    for path in ("manifest.json", ".hidden", "a/b/c/file", "a/b/c/d/too-deep", "a/manifest.json"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    found = list_files(tmp_path, tmp_path, omit="manifest.json")
    assert [file.path for file in found] == ["a/b/c/file", "a/manifest.json"]
    assert found[0] == FoundFile("a/b/c/file", 1, (tmp_path / "a/b/c/file").stat().st_mtime_ns)


def test_a_file_is_copied_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"weights")
    link_or_copy(source, tmp_path / "linked")
    assert (tmp_path / "linked").samefile(source)

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    link_or_copy(source, tmp_path / "linked")
    assert not (tmp_path / "linked").samefile(source)
    assert (tmp_path / "linked").read_bytes() == b"weights"


@given(st.text(max_size=40))
def test_a_safe_path_stays_in_its_folder(text: str) -> None:
    try:
        path = safe_path(text)
    except InvalidRequest:
        return
    assert not path.is_absolute()
    assert ".." not in path.parts
    assert not any(part.startswith(".") for part in path.parts)


@pytest.mark.parametrize("names", [(), ("a.gguf", "b.gguf"), (".a.gguf",)])
def test_a_source_must_leave_one_file(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(StorageError, match=r"\.gguf files where one was expected"):
        only_file(tmp_path, "gguf")


def folder(path: Path, content: str) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize(
    ("left", "content"),
    [
        (("old in .swap",), "old"),
        (("old in .swap", "new in place"), "new"),
        (("new in place",), "new"),
    ],
    ids=["before the new folder was renamed", "before the old folder was removed", "no crash"],
)
def test_an_interrupted_swap_leaves_the_old_model_or_the_new_one(
    tmp_path: Path, left: tuple[str, ...], content: str
) -> None:
    area, target = StagingArea(tmp_path), tmp_path / "model"
    if "old in .swap" in left:
        folder(tmp_path / ".swap" / "model", "old")
    if "new in place" in left:
        folder(target, "new")
    assert area.is_interrupted(target) == (left == ("old in .swap",))
    area.recover(target)
    assert (target / "file").read_text() == content
    area.swap_in(folder(tmp_path / ".staging" / "model", "newest"), target)
    assert (target / "file").read_text() == "newest"
    assert not list((tmp_path / ".swap").iterdir())


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "folder" / "file", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "folder" / "file", b"new")
    assert (tmp_path / "folder" / "file").read_bytes() == b"old"


async def test_a_lock_is_held_by_one_task_and_a_waiting_task_can_be_cancelled(tmp_path: Path) -> None:
    held: list[str] = []

    async def hold(name: str) -> None:
        async with locked(tmp_path / "locks" / "model.lock"):
            held.append(name)

    async with locked(tmp_path / "locks" / "model.lock"):
        waiting, cancelled = asyncio.create_task(hold("waiting")), asyncio.create_task(hold("cancelled"))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert held == []
    await eventually(waiting.done)
    assert held == ["waiting"]


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
