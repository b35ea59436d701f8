"""Runner Protocol v1, the daemon's side: HTTP over the runner's unix socket. Knows nothing of processes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from ollmlx.errors import OllmlxError, from_kind
from ollmlx.protocol import TRACEPARENT, Problem, Progress, TokenizeRequest, Tokens, decode_event
from ollmlx.types import (
    Done,
    EmbedRequest,
    EmbedResult,
    Event,
    Failed,
    Frozen,
    GenerateRequest,
    RerankRequest,
    RerankResult,
    SpeechRequest,
    StreamRequest,
    TranscribeRequest,
)

if TYPE_CHECKING:
    import aiohttp  # imported when used: while the first runner starts, and not by a daemon without one

MAX_LINE = 2 * 1024 * 1024 - 1
MAX_BODY = 512 * 1024 * 1024
LARGE = 256 * 1024
"""Bytes of a request's body from which it is sent in pieces, between which other requests go on."""
STREAMS: dict[type[Frozen], str] = {
    GenerateRequest: "/v1/generate",
    TranscribeRequest: "/v1/transcribe",
    SpeechRequest: "/v1/speak",
}
Reply = TypeVar("Reply", bound=Frozen)


class ConnectionLost(Exception):
    """The connection ended before the answer was complete."""


class ProtocolViolation(Exception):
    """The bytes that arrived do not follow the protocol."""


@dataclass(eq=False, slots=True)
class RunnerCall:
    """One request to a runner, which other tasks can end early with a reason."""

    reason: Exception | None = None
    response: aiohttp.ClientResponse | None = None
    bytes_read: int = 0
    """Bytes of the answer that the reader has taken."""
    _head_timeout: asyncio.Timeout | None = None

    @property
    def has_unread(self) -> bool:
        """True when bytes of the answer wait to be read: the client is slow, not the runner."""
        return self.response is not None and self.response.content.total_bytes > self.bytes_read

    def abort(self, reason: Exception) -> None:
        """End the call now: its reader gets `reason` raised. Only the first reason counts."""
        self.reason = self.reason or reason
        if self.response is not None:
            self.response.close()
        elif self._head_timeout is not None:
            self._head_timeout.reschedule(0)

    async def send(self, request: Awaitable[aiohttp.ClientResponse]) -> aiohttp.ClientResponse:
        """Send the request and wait for the head of the answer. Raises `reason` when the call is aborted meanwhile."""
        try:
            async with asyncio.timeout(None) as self._head_timeout:
                if self.reason is not None:
                    raise self.reason
                self.response = await request
        except TimeoutError as error:
            raise self.reason or error from None
        finally:
            self._head_timeout = None
        return self.response


class RunnerClient:
    """HTTP client of one runner.

    Every method raises ConnectionLost or ProtocolViolation for a broken runner, and the OllmlxError that the runner
    names when it refuses a request.
    """

    def __init__(self, socket: Path, token: str) -> None:
        self._socket = socket
        self._token = token
        self._calls: set[RunnerCall] = set()

    @cached_property
    def _session(self) -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            base_url="http://runner",
            connector=aiohttp.UnixConnector(path=str(self._socket), limit=0),
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=aiohttp.ClientTimeout(),
            auto_decompress=False,
        )

    @property
    def unread(self) -> int:
        """Calls whose answer waits to be read."""
        return sum(call.has_unread for call in self._calls)

    def abort(self, reason: Exception) -> None:
        """End every call under way with this reason."""
        for call in list(self._calls):
            call.abort(reason)

    async def close(self) -> None:
        """Close every connection; calls under way end with ConnectionLost."""
        self.abort(
            ConnectionLost("the connection to it broke")
        )  # aiohttp wakes no reader of a transport that it closes
        await self._session.close()

    async def generate(self, request: StreamRequest, call: RunnerCall | None = None) -> AsyncGenerator[Event]:
        """Yield the runner's events up to and including `Done`. Closing the iterator cancels the request.

        A stream ends with `Done` or with an error, never otherwise: a `Failed` event is raised as the error that it
        names, and a stream that ends without either raises ConnectionLost.
        """
        call, rest = call or RunnerCall(), b""
        async with self._post(STREAMS[type(request)], request, request.request_id, call) as response:
            while chunk := await response.content.readany():
                call.bytes_read += len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                if max(map(len, lines), default=0) > MAX_LINE or len(rest) > MAX_LINE:
                    raise ProtocolViolation(f"it sent a line of more than {MAX_LINE} bytes")
                for line in filter(None, lines):
                    event = _event(line)
                    yield event
                    if isinstance(event, Done):
                        return
            reason = "it stopped in the middle of a line" if rest else "it ended the answer without finishing it"
            raise call.reason or ConnectionLost(reason)

    async def embed(self, request: EmbedRequest, call: RunnerCall | None = None) -> EmbedResult:
        return await self._request("/v1/embed", request, EmbedResult, request.request_id, call)

    async def rerank(self, request: RerankRequest, call: RunnerCall | None = None) -> RerankResult:
        return await self._request("/v1/rerank", request, RerankResult, request.request_id, call)

    async def tokenize(self, request: TokenizeRequest, call: RunnerCall | None = None, request_id: str = "") -> Tokens:
        return await self._request("/v1/tokenize", request, Tokens, request_id, call)

    async def status(self, timeout: float) -> Progress:
        """Return the runner's own status, within `timeout` seconds."""
        return await self._probe("GET", "status", timeout)

    async def command(self, name: str, timeout: float) -> None:
        """Send `trim` or `shutdown`, within `timeout` seconds."""
        await self._probe("POST", name, timeout)

    async def _probe(self, method: str, name: str, timeout: float) -> Progress:
        import aiohttp

        try:
            async with asyncio.timeout(timeout), self._session.request(method, f"/v1/{name}") as response:
                return await _read(response, Progress)
        except TimeoutError:
            raise ConnectionLost(f"no answer within {timeout:g} s") from None
        except aiohttp.ClientError as error:
            raise ConnectionLost(_describe(error)) from error

    async def _request(
        self, path: str, body: Frozen, kind: type[Reply], request_id: str, call: RunnerCall | None
    ) -> Reply:
        async with self._post(path, body, request_id, call or RunnerCall()) as response:
            return await _read(response, kind)

    @asynccontextmanager
    async def _post(
        self, path: str, body: Frozen, request_id: str, call: RunnerCall
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and count its call as under way until the block ends.

        Raises the reason of the call's end, or ConnectionLost, when the connection breaks.
        """
        import aiohttp

        named = {"X-Request-ID": request_id, "traceparent": TRACEPARENT.get()}
        headers = {"Content-Type": "application/json"} | {name: value for name, value in named.items() if value}
        raw = body.__pydantic_serializer__.to_json(body)
        data = raw if len(raw) < LARGE else io.BytesIO(raw)
        self._calls.add(call)
        try:
            response = await call.send(self._session.post(path, data=data, headers=headers))
            if response.status != 200:
                raise await _refusal(response)
            yield response
        except aiohttp.ClientError as error:
            raise call.reason or ConnectionLost(_describe(error)) from error
        finally:
            self._calls.discard(call)
            if call.response is not None:
                call.response.close()


def _event(line: bytes) -> Event:
    """Decode a line. Raises the error that a `Failed` event names."""
    try:
        event = decode_event(line)
    except ValidationError as error:
        raise ProtocolViolation(f"it sent something that is not an event: {_fault(line, error)}") from error
    if isinstance(event, Failed):
        raise from_kind(event.kind, event.message, code=event.code, excess=event.excess)
    return event


async def _read(response: aiohttp.ClientResponse, kind: type[Reply]) -> Reply:
    if response.status != 200:
        raise await _refusal(response)
    body = await _read_body(response)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise ProtocolViolation(f"it sent something that is not a {kind.__name__}: {_fault(body, error)}") from error


async def _refusal(response: aiohttp.ClientResponse) -> OllmlxError | ProtocolViolation:
    body = await _read_body(response)
    try:
        problem = Problem.model_validate_json(body)
    except ValidationError as error:
        return ProtocolViolation(f"it answered with status {response.status} and {_fault(body, error)}")
    return from_kind(problem.kind, problem.message, code=problem.code, excess=problem.excess)


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > MAX_BODY:
            raise ProtocolViolation(f"it sent an answer of more than {MAX_BODY} bytes")
    return bytes(body)


def _describe(error: aiohttp.ClientError) -> str:
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorError):
        return "it does not accept connections"
    return "the connection to it broke"


def _fault(data: bytes, error: ValidationError) -> str:
    """Describe what is wrong with the data. JSON may hold a part of an answer, so its text is never shown."""
    if not data.lstrip().startswith(b"{"):
        return repr(data[:80])
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{len(data)} bytes, {fault['type']} at {'.'.join(map(str, fault['loc'])) or 'the top'}"
