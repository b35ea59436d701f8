"""What a request learns of a connection to its runner that is closed on our side, or brings what is no event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollmlx.model.events import closing
from ollmlx.supervisor.runner.client import Garbled, RunnerClient, Severed
from ollmlx.testing import eventually
from ollmlx.types import GenerateRequest

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b'{"type": "text", "text": "a"}\n'


class SilentRunner:
    """Answers with these bytes and never again, whatever happens to it."""

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


@pytest.mark.parametrize(
    "answer", [b"", HEAD, HEAD + b"%x\r\n%s\r\n" % (len(EVENT), EVENT)], ids=["no head", "head", "begun"]
)
async def test_closing_the_client_ends_a_request_although_the_other_end_seems_open(
    client: RunnerClient, tmp_path: Path, answer: bytes
) -> None:
    runner = SilentRunner(answer)
    async with await asyncio.start_unix_server(runner.serve, tmp_path / "r"):

        async def ask() -> None:
            async for _ in client.generate(GenerateRequest(prompt="hi")):
                pass

        asking = asyncio.create_task(ask())
        await asyncio.wait_for(runner.asked.wait(), 60)
        assert client.outstanding == 1
        await client.close()
        with pytest.raises(Severed):
            await asyncio.wait_for(asking, 60)


async def test_an_answer_that_waits_to_be_read_is_told_from_a_runner_that_is_silent(
    client: RunnerClient, tmp_path: Path
) -> None:
    chunk, go_on = b"%x\r\n%s\r\n" % (len(EVENT), EVENT), asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + chunk)
        await go_on.wait()
        writer.write(chunk)
        await reader.read()
        writer.close()

    async with (
        await asyncio.start_unix_server(speak, tmp_path / "r"),
        closing(client.generate(GenerateRequest(prompt="hi"))) as events,
    ):
        await anext(events)
        assert client.unread == 0, "all that it said was taken"
        go_on.set()
        await eventually(lambda: client.unread == 1)
        await anext(events)
        assert client.unread == 0


@pytest.mark.fault(11)
@pytest.mark.fault(45)
@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"<html>gateway</html>", "b'<html>gateway</html>'"),
        (b'{"type": "text", "text": "a secret\xff"}', "37 bytes, json_invalid at the top"),
        (b'{"type": "text", "words": "a secret"}', "37 bytes, missing at text.text"),
        (b'{"text": "a secret"}', "20 bytes, union_tag_not_found at the top"),
    ],
)
async def test_what_is_no_event_is_described_without_showing_an_answer(
    client: RunnerClient, tmp_path: Path, line: bytes, told: str
) -> None:
    runner = SilentRunner(HEAD + b"%x\r\n%s\n\r\n" % (len(line) + 1, line))
    async with await asyncio.start_unix_server(runner.serve, tmp_path / "r"):
        with pytest.raises(Garbled) as broken:
            _ = [event async for event in client.generate(GenerateRequest(prompt="hi"))]
        await client.close()
    assert str(broken.value) == f"it sent something that is not an event: {told}"
