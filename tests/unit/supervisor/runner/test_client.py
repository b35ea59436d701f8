"""The client of a runner: how answers end, and what becomes of bytes that are no event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollmlx.errors import OllmlxError, OutOfMemory
from ollmlx.model.events import closing
from ollmlx.supervisor.runner.client import ConnectionLost, ProtocolViolation, RunnerClient
from ollmlx.supervisor.runner.failure import Remedy, RunnerFailure
from ollmlx.testing import eventually
from ollmlx.types import GenerateRequest

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
TEXT, DONE = b'{"type": "text", "text": "a"}\n', b'{"type": "done"}\n'
FAILED = b'{"type": "error", "kind": "out_of_memory", "message": "needs 9 GiB", "code": "RUN005"}\n'
HANG_GUARD = 30


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class SilentRunner:
    """A server that sends these bytes and then keeps the connection open."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self.asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._answer)
        await writer.drain()
        self.asked.set()
        await reader.read()
        writer.close()


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[RunnerClient]:
    started = RunnerClient(tmp_path / "r", "token")
    yield started
    await started.close()


async def read(client: RunnerClient, folder: Path, answer: bytes) -> list[str]:
    """Return the types of the events of an answer."""
    runner = SilentRunner(answer)
    async with await asyncio.start_unix_server(runner.serve, folder / "r"):
        events = client.generate(GenerateRequest(prompt="hi"))
        try:
            async with asyncio.timeout(HANG_GUARD), closing(events):
                return [event.type async for event in events]
        finally:
            await client.close()


async def test_a_stream_ends_with_done_although_the_connection_stays_open(client: RunnerClient, tmp_path: Path) -> None:
    assert await read(client, tmp_path, HEAD + chunk(TEXT + DONE)) == ["text", "done"]


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (chunk(TEXT + FAILED), OutOfMemory, "needs 9 GiB"),
        (chunk(TEXT) + chunk(b""), ConnectionLost, "it ended the answer without finishing it"),
        (chunk(b""), ConnectionLost, "it ended the answer without finishing it"),
        (chunk(TEXT[:9]) + chunk(b""), ConnectionLost, "it stopped in the middle of a line"),
        (chunk(b"not an event\n"), ProtocolViolation, "it sent something that is not an event: b'not an event'"),
    ],
)
async def test_a_stream_without_done_is_an_error(
    client: RunnerClient, tmp_path: Path, answer: bytes, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as failed:
        await read(client, tmp_path, HEAD + answer)
    assert (failed.value.message if isinstance(failed.value, OllmlxError) else str(failed.value)) == message


@pytest.mark.parametrize("answer", [b"", HEAD, HEAD + chunk(TEXT)], ids=["no head", "head", "begun"])
async def test_closing_the_client_ends_a_request_although_the_connection_stays_open(
    client: RunnerClient, tmp_path: Path, answer: bytes
) -> None:
    runner = SilentRunner(answer)
    async with await asyncio.start_unix_server(runner.serve, tmp_path / "r"):

        async def ask() -> None:
            async for _ in client.generate(GenerateRequest(prompt="hi")):
                pass

        asking = asyncio.create_task(ask())
        await asyncio.wait_for(runner.asked.wait(), 60)
        await client.close()
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(asking, 60)


async def test_an_answer_that_waits_to_be_read_is_counted(client: RunnerClient, tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + chunk(TEXT))
        await go_on.wait()
        writer.write(chunk(TEXT))
        await reader.read()
        writer.close()

    async with (
        await asyncio.start_unix_server(speak, tmp_path / "r"),
        closing(client.generate(GenerateRequest(prompt="hi"))) as events,
    ):
        await anext(events)
        assert client.unread == 0, "every byte was read"
        go_on.set()
        await eventually(lambda: client.unread == 1)
        await anext(events)
        assert client.unread == 0


@pytest.mark.fault(11)
@pytest.mark.fault(45)
@pytest.mark.parametrize(
    ("line", "description"),
    [
        (b"<html>gateway</html>", "b'<html>gateway</html>'"),
        (b'{"type": "text", "text": "a secret\xff"}', "37 bytes, json_invalid at the top"),
        (b'{"type": "text", "words": "a secret"}', "37 bytes, missing at text.text"),
        (b'{"text": "a secret"}', "20 bytes, union_tag_not_found at the top"),
    ],
)
async def test_bytes_that_are_no_event_are_described_without_showing_an_answer(
    client: RunnerClient, tmp_path: Path, line: bytes, description: str
) -> None:
    runner = SilentRunner(HEAD + chunk(line + b"\n"))
    async with await asyncio.start_unix_server(runner.serve, tmp_path / "r"):
        with pytest.raises(ProtocolViolation) as broken:
            _ = [event async for event in client.generate(GenerateRequest(prompt="hi"))]
        await client.close()
    assert str(broken.value) == f"it sent something that is not an event: {description}"


@pytest.mark.parametrize(
    ("code", "words", "remedy", "label"),
    [
        (0, "without being asked", Remedy.RETRY, "exit_0"),
        (1, "exit status 1", Remedy.RETRY, "exit_1"),
        (64, "refused its configuration", Remedy.NONE, "exit_64"),
        (65, "cannot load the model's files", Remedy.NONE, "exit_65"),
        (66, "another version", Remedy.NONE, "exit_66"),
        (70, "exit status 70", Remedy.RETRY, "exit_70"),
        (75, "ran out of memory", Remedy.MAKE_ROOM, "exit_75"),
        (127, "could not be found", Remedy.NONE, "exit_127"),
        (-9, "memory runs out", Remedy.MAKE_ROOM, "SIGKILL"),
        (-11, "SIGSEGV", Remedy.RETRY, "SIGSEGV"),
        (-4, "another processor", Remedy.NONE, "SIGILL"),
        (-15, "SIGTERM", Remedy.RETRY, "SIGTERM"),
        (-99, "signal 99", Remedy.RETRY, "signal 99"),
    ],
)
def test_an_exit_status_has_a_meaning_and_a_remedy(code: int, words: str, remedy: Remedy, label: str) -> None:
    meaning = RunnerFailure.of_exit(code)
    assert words in meaning.text
    assert (meaning.remedy, meaning.label) == (remedy, label)
