"""The client of llama.cpp's server on its unix socket: JSON requests, JSON or streamed answers, errors as our kinds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson

from ollmlx.errors import Busy, ContextExceeded, InvalidRequest, OllmlxError, RunnerFailed, Unsupported

Json = dict[str, Any]

_KINDS: dict[str, type[OllmlxError]] = {
    "exceed_context_size_error": ContextExceeded,
    "invalid_request_error": InvalidRequest,
    "not_supported_error": Unsupported,
    "unavailable_error": Busy,
}


class LlamaCppClient:
    """One session. Each request has its own connection, because llama.cpp closes idle ones without notice."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    @classmethod
    def open(cls, socket: Path, key: str) -> Self:
        """Open a session with `key` as its API key. Must be called on a running event loop."""
        return cls(
            aiohttp.ClientSession(
                "http://llamacpp",
                connector=aiohttp.UnixConnector(path=str(socket), limit=0, force_close=True),
                headers={"Authorization": f"Bearer {key}"},
                timeout=aiohttp.ClientTimeout(total=None),
                read_bufsize=1 << 20,
            )
        )

    async def post(self, path: str, body: Json) -> Any:
        """Return the answer's JSON. Raises the OllmlxError kind that llama.cpp's error stands for."""
        try:
            async with self._session.post(path, data=orjson.dumps(body)) as answer:
                data = await answer.read()
                if answer.status != 200:
                    raise error_of(data)
                return orjson.loads(data)
        except aiohttp.ClientError as error:
            raise RunnerFailed(f"llama.cpp does not answer: {error or type(error).__name__}") from error

    async def stream(self, path: str, body: Json) -> AsyncIterator[Json]:
        """Yield the records of an answer as they arrive. Closing the iterator closes the connection, which cancels."""
        answer: aiohttp.ClientResponse | None = None
        try:
            answer = await self._session.post(path, data=orjson.dumps({**body, "stream": True}))
            if answer.status != 200:
                raise error_of(await answer.read())
            async for record in records(answer.content.iter_any()):
                if "error" in record:
                    raise error_of(orjson.dumps(record))
                yield record
        except aiohttp.ClientError as error:
            raise RunnerFailed(f"llama.cpp closed the connection: {error or type(error).__name__}") from error
        finally:
            if answer is not None:
                answer.close()

    async def close(self) -> None:
        """Close the session and let its connections end."""
        await self._session.close()
        await asyncio.sleep(0)


async def records(pieces: AsyncIterator[bytes]) -> AsyncIterator[Json]:
    """Yield the JSON after each `data: ` or `error: `.

    Lines are put together here: they may be longer than aiohttp's line reader allows.
    """
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            start = line.find(b"{")
            if start >= 0 and line.startswith(b"data:"):
                yield orjson.loads(line[start:])
            elif start >= 0 and line.startswith(b"error:"):
                yield {"error": orjson.loads(line[start:])}


def error_of(data: bytes) -> OllmlxError:
    """Return the error that llama.cpp's error record stands for; RunnerFailed when it is no such record."""
    try:
        found = orjson.loads(data)["error"]
        message, kind = str(found["message"]), str(found.get("type", ""))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return RunnerFailed(f"llama.cpp failed: {data[:300].decode('utf-8', 'replace')}")
    return _KINDS.get(kind, RunnerFailed)(f"llama.cpp: {message}")
