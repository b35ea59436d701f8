"""Attack: a client fills the disk, or holds up the tokens of others; a crash makes a half-written model whole."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import StartDaemon

from ollmlx.errors import StorageError
from ollmlx.storekit import StagingArea
from ollmlx.storekit.blobs import CHECK_EVERY, Blobs
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx_openai_api.routes import blueprint as openai


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_uploads_take_no_more_than_their_limit_in_all(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, limit=100)
    assert await blobs.write(digest_of(b"x" * 60), pieces(b"x" * 60, 60))
    with pytest.raises(StorageError, match="uploads may take 100 B in all, and take 60 B"):
        await blobs.write(digest_of(b"y" * 60), pieces(b"y" * 60, 60))
    assert [file.stat().st_size for file in tmp_path.iterdir()] == [60], "nothing of the refused one is left"
    large = b"z" * (2 * CHECK_EVERY)
    blobs = Blobs(tmp_path, limit=CHECK_EVERY)
    with pytest.raises(StorageError, match="uploads may take"):
        await blobs.write(digest_of(large), pieces(large, 1 << 20))


@pytest.mark.parametrize("stops", [["x"] * 65, ["x" * 1025]], ids=["many", "long"])
def test_stop_strings_are_few_and_short(daemon: StartDaemon, stops: list[str]) -> None:
    """100,000 of them took half a second for each token, of every request of the model."""
    one = daemon()
    turns = [{"role": "user", "content": "hi"}]
    bodies: dict[str, dict[str, Any]] = {
        "/api/generate": {"prompt": "hi", "options": {"stop": stops}},
        "/v1/chat/completions": {"messages": turns, "stop": stops},
        "/v1/messages": {"messages": turns, "max_tokens": 9, "stop_sequences": stops},
    }
    for path, body in bodies.items():
        answer = one.post(path, {"model": "parrot", "stream": False, **body})
        assert answer.status_code == 400, answer.text
        assert "at most" in answer.text


def test_what_a_body_names_without_end_takes_a_line_of_the_log(daemon: StartDaemon) -> None:
    """200,000 unknown options held the daemon up for 16 s, and pushed everything else out of its log."""
    one = daemon()
    before = len(one.log_text)
    many = {f"{number}{'x' * 900}": 1 for number in range(5000)}
    turns = [{"role": f"speaker {number}", "content": "hi"} for number in range(5000)]
    assert one.post("/api/chat", {"model": "parrot", "messages": turns, "options": many}).status_code == 200
    written = one.log_text[before:]
    assert "invalid option provided: '0xxx" in written
    assert "… (shortened)" in written
    assert len([line for line in written.splitlines() if "invalid option" in line]) == 1
    assert max(map(len, written.splitlines())) < 9000


async def test_the_lines_before_a_part_of_a_form_are_few_and_others_are_served_meanwhile() -> None:
    """60 MB of such lines took the daemon 6 s, in which it served nobody."""
    service = FakeService(models=[installed("ears", capabilities=("transcription",))])
    client: Any = web_app(service, openai).test_client()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    lines = b"--b\r\n" + b"A: b\r\n" * 200_000 + b"\r\nx\r\n--b--\r\n"
    assert (await client.post("/v1/audio/transcriptions", data=lines, headers=headers)).status_code == 413
    rounds = 0

    async def count_rounds() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    meanwhile = asyncio.create_task(count_rounds())
    opening = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    await client.post("/v1/audio/transcriptions", data=opening + b"\r" * (8 << 20) + b"\r\n--b--\r\n", headers=headers)
    meanwhile.cancel()
    assert rounds > 100, "a form that has arrived is parsed in pieces"


def test_a_model_gets_its_name_after_its_files_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (stage := tmp_path / "stage" / "deep").mkdir(parents=True)
    (stage / "weights").write_bytes(b"w")
    (stage.parent / "config").write_bytes(b"c")
    done: list[str] = []
    sync, rename = os.fsync, Path.rename

    def note_sync(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        done.append("RENAMED")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    StagingArea(tmp_path).swap_in(stage.parent, tmp_path / "model")
    assert set(done[: done.index("RENAMED")]) == {"weights", "config", "deep", "stage"}
    assert done[done.index("RENAMED") + 1 :] == [tmp_path.name], "the new name, too"
