"""What a request learns when the connection to its runner is closed on our side, over a socket that stays silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollmlx.supervisor.client import RunnerClient, Severed
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
        await asyncio.wait_for(runner.asked.wait(), 5)
        assert client.outstanding == 1
        await client.close()
        with pytest.raises(Severed):
            await asyncio.wait_for(asking, 5)
