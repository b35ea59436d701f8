"""Downloads of single files: resumed where they stopped, checked as they arrive, renamed into place when complete.

Credentials are sent to the scheme, host and port of the given address only. A redirect to another host is followed
without them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from ollmlx.errors import Forbidden, NotFound, OllmlxError, Unauthorized, UpstreamError
from ollmlx.model.events import closing
from ollmlx.model.installed import PullProgress
from ollmlx.storekit.files import replace_whole, storage_errors, sync_file
from ollmlx.storekit.public_addresses import PublicAddresses
from ollmlx.storekit.threads import to_transfer_thread

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger(__name__)
CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})
PARTIAL = ".partial"
CHUNK = 1 << 18
MAX_REDIRECTS = 10
ATTEMPTS = 6
"""Requests without progress, one after the other, after which a download fails."""
MAX_REPORTS = 400
"""Progress records of one file, at most."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_RETRY = frozenset({408, 425, 429, 500, 502, 503, 504})

Sleep = Callable[[float], Awaitable[None]]


@dataclass(eq=False)
class Download:
    """A file that is fetched to `target`.

    `size` in bytes and `sha256` in hexadecimal are checked if they are given; after the download, `sha256` is that of
    the file. When the download ends early, the bytes so far stay in `<target>.partial`, and the next download of
    `target` resumes from there. `completed` is their number.
    """

    client: httpx2.AsyncClient
    url: str
    target: Path
    _: KW_ONLY
    size: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] | None = None
    attempts: int = ATTEMPTS
    sleep: Sleep = asyncio.sleep
    completed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._hash = hashlib.sha256()

    async def run(self) -> AsyncIterator[int]:
        """Download the file; yields the number of bytes so far, at least twice.

        Raises UpstreamError, StorageError, NotFound, Unauthorized, Forbidden.
        """
        partial = self.target.with_name(self.target.name + PARTIAL)
        with storage_errors(f"cannot write {self.target.name}"):
            with await to_transfer_thread(self._open, partial) as file:
                yield self.completed
                async for completed in self._with_retries(file):
                    yield completed
                await to_transfer_thread(sync_file, file)
            await to_transfer_thread(self._accept, partial)

    def _open(self, partial: Path) -> IO[bytes]:
        """Open the partial file at its end, and hash the bytes that an earlier download left in it."""
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
        """Check the hash and rename the partial file to the target."""
        found = self._hash.hexdigest()
        if self.sha256 not in (None, found):
            partial.unlink(missing_ok=True)
            logger.warning("%s has the sha256 %s, expected is %s", self.target.name, found, self.sha256)
            raise UpstreamError(  # the client is not told what came: it could read a file of a foreign network by it
                f"checksum mismatch for {self.target.name}",
                hint="pull again; if it stays so, the server sends a wrong file",
            )
        self.sha256 = found
        replace_whole(partial, self.target)

    async def _with_retries(self, file: IO[bytes]) -> AsyncIterator[int]:
        failures = 0
        while self.size is None or self.completed < self.size:
            before = self.completed
            try:
                async for completed in self._once(file):
                    yield completed
                if self.size is None or self.completed >= self.size:
                    return
                reason = "the connection ended early"
            except DownloadInterrupted as error:
                reason = str(error)
            failures = 1 if self.completed > before else failures + 1
            if failures >= self.attempts:
                raise UpstreamError(f"cannot download {self.target.name}: {reason}", hint="pull again to resume")
            await self.sleep(min(8.0, 0.5 * 2**failures) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _once(self, file: IO[bytes]) -> AsyncIterator[int]:
        """Make one request for the rest of the file. Raises DownloadInterrupted if another request may succeed."""
        import httpx2

        headers = {**(self.headers or {}), "Accept-Encoding": "identity"}
        if self.completed:
            headers["Range"] = f"bytes={self.completed}-"
        try:
            async with follow_redirects(self.client, self.url, headers) as response:
                await self._position(response, file)
                pending = bytearray()
                try:
                    async for chunk in response.aiter_raw():
                        pending += chunk
                        if len(pending) >= CHUNK:
                            await to_transfer_thread(self._append, file, pending)
                            yield self.completed
                finally:
                    self._append(file, pending)  # bytes that arrived before an error or a cancellation are kept
                yield self.completed
        except httpx2.TransportError as error:
            raise DownloadInterrupted(f"{type(error).__name__}: {error}") from error

    def _append(self, file: IO[bytes], pending: bytearray) -> None:
        if self.size is not None and self.completed + len(pending) > self.size:
            pending.clear()
            raise UpstreamError(f"{self.target.name} is longer than announced")
        file.write(pending)
        self._hash.update(pending)
        self.completed += len(pending)
        pending.clear()

    async def _position(self, response: httpx2.Response, file: IO[bytes]) -> None:
        """Start over if the response does not continue the file.

        Raises DownloadInterrupted if another request may succeed, else the OllmlxError of the response's status.
        """
        status, host = response.status_code, response.request.url.host
        if status in _RETRY:
            raise DownloadInterrupted(f"{host} answered {status}")
        if status not in {200, 206, 416}:
            kind: type[OllmlxError] = {401: Unauthorized, 403: Forbidden, 404: NotFound}.get(status, UpstreamError)
            raise kind(f"{host} answered {status} for {self.target.name}")
        if status == 206 and self._is_next(response.headers.get("Content-Range", "")):
            return
        if self.completed:
            await to_transfer_thread(self._restart, file)
        if status == 416:
            raise DownloadInterrupted("the server refused to resume")
        if status == 206:
            raise DownloadInterrupted("the server sent another part of the file than was requested")

    def _is_next(self, content_range: str) -> bool:
        match = _CONTENT_RANGE.fullmatch(content_range)
        return match is not None and int(match[1]) == self.completed and match[3] in {"*", str(self.size or match[3])}


class DownloadInterrupted(Exception):
    """A download ended early, and another request may complete it."""


def origin(url: str) -> tuple[str, str, int | None]:
    """Return the scheme, host and port of an address. Credentials are given for one origin."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port


def redirected(url: str, location: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers to send to a redirect's target, without credentials if it is another origin.

    Raises UpstreamError for a redirect that must not be followed: to anything but HTTP, and from HTTPS to HTTP.
    """
    here, there = origin(url), origin(location)
    if there[0] not in {"http", "https"} or (here[0] == "https" and there[0] == "http"):
        raise UpstreamError(f"refused a redirect from {here[1]} to {there[0]}://{there[1]}")
    return {name: value for name, value in headers.items() if here == there or name.lower() not in CREDENTIALS}


@asynccontextmanager
async def follow_redirects(
    client: httpx2.AsyncClient, url: str, headers: Mapping[str, str]
) -> AsyncIterator[httpx2.Response]:
    """Make a GET request; yields the response whose body can be read. Credentials are sent to the first origin only.

    Raises UpstreamError for a redirect that must not be followed, and for more than `MAX_REDIRECTS`.
    """
    for _ in range(MAX_REDIRECTS):
        async with client.stream("GET", url, headers=headers) as response:
            if not response.has_redirect_location:
                yield response
                return
            target = urljoin(url, response.headers["Location"])
        headers, url = redirected(url, target, headers), target
    raise UpstreamError(f"{origin(url)[1]}: more than {MAX_REDIRECTS} redirects", code="NET005")


@asynccontextmanager
async def download_client(private_hosts: Collection[str] = ()) -> AsyncIterator[httpx2.AsyncClient]:
    """An HTTP client with the timeouts that downloads need. It connects to public addresses, and to `private_hosts`.

    Its requests raise Forbidden for any other address, also for one that a redirect leads to.
    """
    import httpx2

    trusted = await asyncio.to_thread(httpx2.create_ssl_context)  # it reads all certificates: too slow for the loop
    timeout = httpx2.Timeout(30.0, read=60.0)
    hooks: list[Callable[..., Awaitable[None]]] = [PublicAddresses(private_hosts)]
    async with httpx2.AsyncClient(timeout=timeout, verify=trusted, event_hooks={"request": hooks}) as client:
        yield client


def pull_progress(digest: str, total: int, completed: int) -> PullProgress:
    """Make the progress record of one file. `digest`: `sha256:` and hexadecimal digits; sizes in bytes."""
    short = digest.removeprefix("sha256:")[:12]
    return PullProgress(status=f"pulling {short}", digest=digest, total=total, completed=completed)


async def fetch_file(download: Download, digest: str, total: int, listed_by: str) -> AsyncIterator[PullProgress]:
    """Run a download and report its progress, at most `MAX_REPORTS` times.

    `listed_by` names the repository that listed the file. A refusal of a listed file is the server's fault and becomes
    an UpstreamError (NET005).
    """
    reported = -total
    try:
        async with closing(download.run()) as sizes:
            async for completed in sizes:
                if completed - reported >= total // MAX_REPORTS or completed == total:
                    reported = completed
                    yield pull_progress(digest, total, completed)
    except (Unauthorized, Forbidden, NotFound) as error:
        raise UpstreamError(f"{listed_by}: {error.message}", code="NET005") from error
