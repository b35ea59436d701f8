"""One file over HTTP: resumed where it stopped, checked while it arrives, renamed into place when it is right.

Used by sources. Credentials belong to the scheme, host and port they were given for: a redirect elsewhere loses them.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from ollmlx.errors import Forbidden, NotFound, OllmlxError, StorageError, Unauthorized, UpstreamError

if TYPE_CHECKING:
    import httpx2

CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
PARTIAL = ".partial"
CHUNK = 1 << 18
MAX_REDIRECTS = 10
ATTEMPTS = 6
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_RETRY = frozenset({408, 425, 429, 500, 502, 503, 504})

Sleep = Callable[[float], Awaitable[None]]


class Download:
    """One file to fetch to `target`. `size` in bytes and `sha256` are checked when given; `completed` grows.

    `headers` go to the host of `url` only; a redirect to another host is followed when `redirects` allows it, without
    credentials. What has arrived stays in `<target>.partial` when the download ends early, and is resumed from there.
    """

    def __init__(
        self,
        client: httpx2.AsyncClient,
        url: str,
        target: Path,
        *,
        size: int | None = None,
        sha256: str | None = None,
        headers: Mapping[str, str] | None = None,
        redirects: bool = True,
        attempts: int = ATTEMPTS,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.client = client
        self.url = url
        self.target = target
        self.size = size
        self.expected = sha256
        self.headers = dict(headers or {})
        self.redirects = redirects
        self.attempts = attempts
        self.sleep = sleep
        self.completed = 0
        self.sha256 = ""
        self._hash = hashlib.sha256()

    async def run(self) -> AsyncIterator[int]:
        """Bytes so far, at least twice. Raises UpstreamError, StorageError, NotFound, Unauthorized, Forbidden."""
        partial = self.target.with_name(self.target.name + PARTIAL)
        try:
            with await asyncio.to_thread(self._open, partial) as file:
                yield self.completed
                async for completed in self._with_retries(file):
                    yield completed
            self.sha256 = self._hash.hexdigest()
            await asyncio.to_thread(self._accept, partial)
        except OSError as error:
            raise storage_error(error, f"cannot write {self.target.name}") from error

    def _open(self, partial: Path) -> IO[bytes]:
        partial.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("a+b")
        file.seek(0)
        while block := file.read(CHUNK):
            self._hash.update(block)
        self.completed = file.tell()
        if self.size is not None and self.completed > self.size:
            self._restart(file)
        return file

    def _restart(self, file: IO[bytes]) -> None:
        file.seek(0)
        file.truncate()
        self._hash, self.completed = hashlib.sha256(), 0

    def _accept(self, partial: Path) -> None:
        if self.expected is not None and self.sha256 != self.expected:
            partial.unlink(missing_ok=True)
            raise UpstreamError(
                f"checksum mismatch for {self.target.name}: expected sha256 {self.expected}, got {self.sha256}",
                hint="pull again; if it stays so, the server sends a wrong file",
            )
        partial.replace(self.target)

    async def _with_retries(self, file: IO[bytes]) -> AsyncIterator[int]:
        failures = 0
        while self.size is None or self.completed < self.size:
            before = self.completed
            try:
                async for completed in self._once(file):
                    yield completed
                if self.size is None or self.completed >= self.size:
                    return
                trouble = f"the connection ended after {self.completed} of {self.size} bytes"
            except Interrupted as error:
                trouble = str(error)
            failures = 1 if self.completed > before else failures + 1
            if failures >= self.attempts:
                raise UpstreamError(f"cannot download {self.target.name}: {trouble}", hint="pull again to resume")
            await self.sleep(min(8.0, 0.5 * 2**failures) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _once(self, file: IO[bytes]) -> AsyncIterator[int]:
        """One request, from where the file ends. Raises Interrupted for what another try can mend."""
        import httpx2

        try:
            response = await self._request()
            try:
                await self._position(response, file)
                pending = bytearray()
                try:
                    async for chunk in response.aiter_raw():
                        pending += chunk
                        if len(pending) >= CHUNK:
                            await asyncio.to_thread(self._append, file, pending)
                            yield self.completed
                finally:
                    self._append(file, pending)  # what arrived before a cut or a cancellation is not fetched again
                yield self.completed
            finally:
                await response.aclose()
        except httpx2.TransportError as error:
            raise Interrupted(f"{type(error).__name__}: {error}") from error

    def _append(self, file: IO[bytes], pending: bytearray) -> None:
        if self.size is not None and self.completed + len(pending) > self.size:
            pending.clear()
            raise UpstreamError(f"{self.target.name} is longer than the {self.size} bytes announced")
        file.write(pending)
        self._hash.update(pending)
        self.completed += len(pending)
        pending.clear()

    async def _request(self) -> httpx2.Response:
        url, headers = self.url, {**self.headers, "Accept-Encoding": "identity"}
        if self.completed:
            headers["Range"] = f"bytes={self.completed}-"
        for _ in range(MAX_REDIRECTS):
            response = await self.client.send(self.client.build_request("GET", url, headers=headers), stream=True)
            if response.status_code not in {301, 302, 303, 307, 308}:
                return await checked(response, self.target.name)
            location = urljoin(url, response.headers.get("Location", ""))
            await response.aclose()
            headers = redirected(url, location, headers, allowed=self.redirects)
            url = location
        raise UpstreamError(f"cannot download {self.target.name}: more than {MAX_REDIRECTS} redirects")

    async def _position(self, response: httpx2.Response, file: IO[bytes]) -> None:
        if response.status_code == 200:
            if self.completed:
                await asyncio.to_thread(self._restart, file)
            return
        if response.status_code == 416:
            await asyncio.to_thread(self._restart, file)
            raise Interrupted("the server refused to resume")
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != self.completed or (self.size and match[3] not in {"*", str(self.size)}):
            await asyncio.to_thread(self._restart, file)
            raise Interrupted("the server answered another part of the file than was asked for")


class Interrupted(Exception):
    """A failure that another try can mend."""


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port: what credentials belong to."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def redirected(url: str, location: str, headers: Mapping[str, str], *, allowed: bool = True) -> dict[str, str]:
    """The headers for a redirect's target. Raises UpstreamError for one that must not be followed."""
    here, there = origin(url), origin(location)
    if there[0] not in {"http", "https"} or (here[0] == "https" and there[0] == "http"):
        raise UpstreamError(f"refused a redirect from {here[1]} to {there[0]}://{there[1]}")
    if here == there:
        return dict(headers)
    if not allowed:
        raise UpstreamError(f"refused a redirect from {here[1]} to another host ({there[1]})")
    return {name: value for name, value in headers.items() if name.lower() not in CREDENTIALS}


async def checked(response: httpx2.Response, what: str) -> httpx2.Response:
    """The response of a download if it carries the file. Raises Interrupted or the OllmlxError that fits its status."""
    status = response.status_code
    if status in {200, 206, 416}:
        return response
    await response.aclose()
    host = response.request.url.host
    if status in _RETRY:
        raise Interrupted(f"{host} answered {status}")
    kind: type[OllmlxError] = {401: Unauthorized, 403: Forbidden, 404: NotFound}.get(status, UpstreamError)
    raise kind(f"{host} answered {status} for {what}")


def storage_error(error: OSError, doing: str) -> StorageError:
    """A StorageError a person can act on, for what the file system refused."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageError(f"{doing}: the disk is full", code="STO003", hint="ollmlx doctor storage")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return StorageError(f"{doing}: {error.strerror}", code="STO004", hint="ollmlx doctor storage")
    code = "STO002" if error.errno == errno.ENOTDIR else "STO004"
    return StorageError(f"{doing}: {error.strerror or error}", code=code, hint="ollmlx doctor storage")


async def discard(target: Path) -> None:
    """Remove a target and what was left of its download."""
    for path in (target, target.with_name(target.name + PARTIAL)):
        with suppress(FileNotFoundError):
            await asyncio.to_thread(path.unlink)
