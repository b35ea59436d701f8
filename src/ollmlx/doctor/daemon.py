"""The daemon, as the doctor calls it: JSON over HTTP, never through a proxy, with short deadlines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ollmlx.text.addresses import Address

if TYPE_CHECKING:
    import httpx2

PATIENCE = 2.5
"""Seconds that a daemon may take to answer a question about itself."""


class Silent(Exception):
    """Nobody answers. `reason`: as the system says it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Answer:
    """A status and the JSON that came with it; None for anything that is not JSON."""

    status: int
    body: Any


class Daemon:
    """Calls one address."""

    def __init__(self, address: Address, key: str | None = None) -> None:
        self.address = address
        self.url = f"{address.scheme}://{_netloc(address)}{address.path}"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def get(self, path: str, seconds: float = PATIENCE) -> Answer:
        """One GET. Raises Silent."""
        return await self._call("GET", path, None, seconds)

    async def post(self, path: str, body: Mapping[str, Any], seconds: float = PATIENCE) -> Answer:
        """One POST with a JSON body. Raises Silent."""
        return await self._call("POST", path, body, seconds)

    async def lines(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The records of an NDJSON answer; closing the iterator closes the connection. Raises Silent."""
        import httpx2

        try:
            async with self._client(None) as client, client.stream("POST", self.url + path, json=dict(body)) as answer:
                async for line in answer.aiter_lines():
                    if line.strip():
                        yield json.loads(line)
        except (httpx2.HTTPError, OSError) as error:
            raise Silent(_reason(error)) from error

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float) -> Answer:
        import httpx2

        try:
            async with asyncio.timeout(seconds), self._client(seconds) as client:
                answer = await client.request(method, self.url + path, json=dict(body) if body is not None else None)
        except TimeoutError as error:
            raise Silent(f"no answer within {seconds:g} s") from error
        except (httpx2.HTTPError, OSError) as error:
            raise Silent(_reason(error)) from error
        try:
            return Answer(answer.status_code, answer.json())
        except ValueError:
            return Answer(answer.status_code, None)

    def _client(self, seconds: float | None) -> httpx2.AsyncClient:
        import httpx2

        return httpx2.AsyncClient(timeout=seconds, trust_env=False, headers=self._headers)


def _netloc(address: Address) -> str:
    host = address.dialled
    return f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
