"""Runner Protocol v1, the daemon's side: HTTP over the runner's unix socket. Knows nothing of processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from pydantic import ValidationError

from ollmlx.errors import OllmlxError, from_kind
from ollmlx.protocol import Detokenized, Problem, Progress, TokenizeRequest, Tokens, decode_event
from ollmlx.types import EmbedRequest, EmbedResult, Event, Frozen, GenerateRequest

MAX_LINE = 2 * 1024 * 1024 - 1
MAX_BODY = 512 * 1024 * 1024
Answer = TypeVar("Answer", bound=Frozen)


class Severed(Exception):
    """The connection ended before the answer did."""


class Garbled(Exception):
    """What arrived is not the protocol."""


class Exchange:
    """One request under way, so that somebody else can end it with a reason."""

    def __init__(self) -> None:
        self.reason: OllmlxError | None = None
        self.response: aiohttp.ClientResponse | None = None
        self.read = 0
        """Bytes of the answer that were taken."""
        self._asking: asyncio.Timeout | None = None
        self._severed = False

    @property
    def unread(self) -> bool:
        """The runner has said more than was taken: whoever asked is slow, and not the runner."""
        return self.response is not None and self.response.content.total_bytes > self.read

    def abort(self, reason: OllmlxError) -> None:
        """End it now: whoever reads it gets `reason` raised. A second reason is not heard."""
        if self.reason is None:
            self.reason = reason
            self._wake()

    def sever(self) -> None:
        """The runner is gone: whoever reads is told so, although its end of the connection may seem open."""
        self._severed = True
        self._wake()

    def _wake(self) -> None:
        if self.response is not None:
            self.response.close()
        elif self._asking is not None:
            self._asking.reschedule(0)

    async def head(self, request: Any) -> aiohttp.ClientResponse:
        """Send, and wait for the head of the answer. Raises `reason` when aborted meanwhile."""
        try:
            async with asyncio.timeout(None) as self._asking:
                if self.reason is not None:
                    raise self.reason
                self.response = await request
        except TimeoutError:
            if self._severed:
                raise aiohttp.ClientConnectionError("the runner is gone") from None
            if self.reason is None:
                raise
            raise self.reason from None
        finally:
            self._asking = None
        assert self.response is not None
        return self.response


class RunnerClient:
    """Talks to one runner. Raises Severed and Garbled for a broken runner, OllmlxError kinds for refused requests."""

    def __init__(self, socket: Path, token: str) -> None:
        self._session = aiohttp.ClientSession(
            base_url="http://runner",
            connector=aiohttp.UnixConnector(path=str(socket), limit=0),
            headers={"Authorization": f"Bearer {token}"},
            timeout=aiohttp.ClientTimeout(),
            auto_decompress=False,
        )
        self._exchanges: set[Exchange] = set()

    @property
    def outstanding(self) -> int:
        """Requests (not probes) whose answer has not ended."""
        return len(self._exchanges)

    @property
    def unread(self) -> int:
        """Those of them whose answer waits to be read."""
        return sum(exchange.unread for exchange in self._exchanges)

    def abort(self, reason: OllmlxError) -> None:
        """End every request under way with this reason."""
        for exchange in list(self._exchanges):
            exchange.abort(reason)

    async def close(self) -> None:
        """Close every connection; requests under way end with Severed. A closed transport tells its readers nothing."""
        for exchange in list(self._exchanges):
            exchange.sever()
        await self._session.close()

    async def generate(self, request: GenerateRequest, exchange: Exchange | None = None) -> AsyncIterator[Event]:
        """The runner's events up to and including `done` or `error`. Closing the iterator cancels the request."""
        with self._under_way(exchange) as exchange:
            try:
                response = await self._post("/v1/generate", request, request.request_id, exchange)
                async for event in _events(response.content, exchange):
                    yield event
                    if event.type in ("done", "error"):
                        return
            except aiohttp.ClientError as error:
                raise exchange.reason or Severed(_words(error)) from error
            if exchange.reason is not None:
                raise exchange.reason
            raise Severed("it ended the answer without finishing it")

    async def embed(self, request: EmbedRequest, exchange: Exchange | None = None) -> EmbedResult:
        return await self._call("/v1/embed", request, EmbedResult, request.request_id, exchange)

    async def tokenize(
        self, request: TokenizeRequest, exchange: Exchange | None = None, request_id: str = ""
    ) -> Tokens:
        return await self._call("/v1/tokenize", request, Tokens, request_id, exchange)

    async def detokenize(self, tokens: Tokens) -> str:
        return (await self._call("/v1/detokenize", tokens, Detokenized)).text

    async def status(self, timeout: float) -> Progress:
        """The runner's own view. Raises Severed (refused, no answer in time) or Garbled."""
        try:
            async with asyncio.timeout(timeout), self._session.get("/v1/status") as response:
                return await _read(response, Progress)
        except TimeoutError:
            raise Severed(f"no answer within {timeout:g} s") from None
        except aiohttp.ClientError as error:
            raise Severed(_words(error)) from error

    async def command(self, name: str, timeout: float) -> None:
        """`trim` or `shutdown`. Raises Severed or Garbled."""
        try:
            async with asyncio.timeout(timeout), self._session.post(f"/v1/{name}") as response:
                await _read(response, Progress)
        except TimeoutError:
            raise Severed(f"no answer within {timeout:g} s") from None
        except aiohttp.ClientError as error:
            raise Severed(_words(error)) from error

    async def _call(
        self, path: str, body: Frozen, kind: type[Answer], request_id: str = "", exchange: Exchange | None = None
    ) -> Answer:
        with self._under_way(exchange) as exchange:
            try:
                return await _read(await self._post(path, body, request_id, exchange), kind)
            except aiohttp.ClientError as error:
                raise exchange.reason or Severed(_words(error)) from error

    async def _post(self, path: str, body: Frozen, request_id: str, exchange: Exchange) -> aiohttp.ClientResponse:
        headers = {"Content-Type": "application/json"} | ({"X-Request-ID": request_id} if request_id else {})
        data = body.__pydantic_serializer__.to_json(body)
        response = await exchange.head(self._session.post(path, data=data, headers=headers))
        if response.status != 200:
            raise await _problem(response)
        return response

    @contextmanager
    def _under_way(self, exchange: Exchange | None) -> Iterator[Exchange]:
        exchange = exchange or Exchange()
        self._exchanges.add(exchange)
        try:
            yield exchange
        finally:
            self._exchanges.discard(exchange)
            if exchange.response is not None:
                exchange.response.close()


async def _events(content: aiohttp.StreamReader, exchange: Exchange) -> AsyncIterator[Event]:
    rest = b""
    while chunk := await content.readany():
        exchange.read += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield _event(line)
        if len(rest) > MAX_LINE:
            raise Garbled(f"it sent a line of more than {MAX_LINE} bytes")
    if rest:
        raise Severed("it stopped in the middle of a line")


def _event(line: bytes) -> Event:
    if len(line) > MAX_LINE:
        raise Garbled(f"it sent a line of {len(line)} bytes")
    try:
        return decode_event(line)
    except ValidationError as error:
        raise Garbled(f"it sent something that is not an event: {_told(line, error)}") from error


async def _read(response: aiohttp.ClientResponse, kind: type[Answer]) -> Answer:
    if response.status != 200:
        raise await _problem(response)
    body = await _bounded(response)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise Garbled(f"it sent something that is not a {kind.__name__}: {_told(body, error)}") from error


async def _problem(response: aiohttp.ClientResponse) -> OllmlxError | Garbled:
    body = await _bounded(response)
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError as error:
        return Garbled(f"it answered with status {response.status} and {_told(body, error)}")
    return from_kind(problem.kind, problem.message, code=problem.code)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    pieces = bytearray()
    while chunk := await response.content.readany():
        pieces += chunk
        if len(pieces) > MAX_BODY:
            raise Garbled(f"it sent an answer of more than {MAX_BODY} bytes")
    return bytes(pieces)


def _words(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return "it does not accept connections"
    return "the connection to it broke"


def _told(data: bytes, error: ValidationError) -> str:
    """What is wrong with it. What looks like an event may hold a piece of an answer, which no log or error shows."""
    if not data.lstrip().startswith(b"{"):
        return repr(data[:80])
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{len(data)} bytes, {fault['type']} at {'.'.join(map(str, fault['loc'])) or 'the top'}"
