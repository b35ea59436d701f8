"""A client for the daemon: JSON over HTTP, never through a proxy, with short time limits."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from ollmlx.plugin.loader import in_background
from ollmlx.text.addresses import Address

PATIENCE = 2.5
"""Seconds that the daemon may take to answer a request about itself."""


CONNECT_SECONDS = 1.0
"""Seconds for the connection alone: a firewall that drops packets must not cost the time of the whole examination."""
LOOK_UP_SECONDS = 0.6
REMEMBERED_SECONDS = 5.0
_unanswered: dict[str, float] = {}
"""Names that the name servers did not answer, with the time until which they are not asked again."""


def look_up(host: str, port: int) -> tuple[Any, Any, Any, str, Any]:
    """Return the first address of a name. Raises OSError, also when the name servers do not answer in time.

    Several checks ask for one name: those that come later do not wait again.
    """
    if time.monotonic() >= _unanswered.get(host, 0.0):
        asked = in_background("look-up", lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0])
        try:
            return asked.result(LOOK_UP_SECONDS)
        except TimeoutError:
            _unanswered[host] = time.monotonic() + REMEMBERED_SECONDS
    problem = f"the name {host} could not be looked up within {LOOK_UP_SECONDS:g} s"
    raise socket.gaierror(socket.EAI_AGAIN, problem)


class NoReply(Exception):
    """The daemon does not answer. Its text is the system's message."""


@dataclass(frozen=True)
class DaemonReply:
    """The status of an answer, its JSON, and its bytes; `body` is None if they are not JSON."""

    status: int
    body: Any
    data: bytes = b""


class DaemonClient:
    """Sends requests to one address. Every method raises NoReply."""

    def __init__(self, address: Address, key: str | None = None) -> None:
        self.address = address
        self.url = address.url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def get(self, path: str, seconds: float = PATIENCE) -> DaemonReply:
        """Send a GET request."""
        return await self._call("GET", path, seconds)

    async def post(self, path: str, body: Mapping[str, Any], seconds: float = PATIENCE) -> DaemonReply:
        """Send a POST request with a JSON body."""
        return await self._call("POST", path, seconds, json=dict(body))

    async def send(self, path: str, fields: Mapping[str, str], file: tuple[str, bytes], seconds: float) -> DaemonReply:
        """Send a POST request with a form that has a file, given with its name."""
        return await self._call("POST", path, seconds, data=dict(fields), files={"file": file})

    async def lines(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Yield the records of an NDJSON answer. Closing the iterator closes the connection."""
        try:
            async with self._client(None) as client, client.stream("POST", self.url + path, json=dict(body)) as answer:
                async for line in answer.aiter_lines():
                    if line.strip():
                        yield json.loads(line)
        except (httpx2.HTTPError, OSError) as error:
            raise NoReply(_reason(error)) from error

    async def _call(self, method: str, path: str, seconds: float, **content: Any) -> DaemonReply:
        try:
            await asyncio.to_thread(look_up, self.address.dialled, self.address.port)
            async with asyncio.timeout(seconds), self._client(seconds) as client:
                answer = await client.request(method, self.url + path, **content)
        except httpx2.ConnectTimeout as error:
            raise NoReply(f"no connection within {CONNECT_SECONDS:g} s") from error
        except TimeoutError as error:
            raise NoReply(f"no answer within {seconds:g} s") from error
        except (httpx2.HTTPError, OSError, UnicodeError) as error:
            raise NoReply(_reason(error)) from error
        try:
            return DaemonReply(answer.status_code, answer.json(), answer.content)
        except ValueError:
            return DaemonReply(answer.status_code, None, answer.content)

    def _client(self, seconds: float | None) -> httpx2.AsyncClient:
        limits = httpx2.Timeout(seconds, connect=CONNECT_SECONDS)
        return httpx2.AsyncClient(timeout=limits, trust_env=False, headers=self._headers)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
