"""Uploads of blobs to a registry: in parts, and continued where an earlier one stopped."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import httpx2

from ollmlx.errors import OllmlxError, UpstreamError
from ollmlx.storekit import read_bounded, storage_errors, to_transfer_thread, write_whole
from ollmlx.storekit.download import ATTEMPTS, CHUNK, Sleep
from ollmlx_ollama_store.layout import OllamaLayer
from ollmlx_ollama_store.registry_client import RegistryClient

SMALLEST_PART = 100_000_000
LARGEST_PART: Final = 1_000_000_000
PARTS: Final = 16
"""A file is sent in as many parts, as Ollama sends it, or fewer of `SMALLEST_PART`."""
MAX_ADDRESS: Final = 8192


@dataclass(eq=False)
class BlobUpload:
    """One blob that a registry gets. `note`: the file that keeps the address of an upload that was interrupted."""

    registry: RegistryClient
    layer: OllamaLayer
    file: Path
    note: Path
    attempts: int = ATTEMPTS
    sleep: Sleep = asyncio.sleep

    def __post_init__(self) -> None:
        self.part = min(max(self.layer.size // PARTS, SMALLEST_PART), LARGEST_PART)
        self.completed = 0
        self._address = ""

    async def run(self, mount: str | None = None) -> AsyncIterator[int]:
        """Send what the registry lacks; yields the number of bytes that it has. `mount`: a model that may have them.

        Raises UpstreamError, Unauthorized, Forbidden, StorageError.
        """
        size = self.layer.size
        known = await self.registry.send("HEAD", f"{self.registry.base}blobs/{self.layer.digest}")
        if known.status_code == 200 or not await self._begin(mount):
            yield size
            return
        failures = 0
        while self.completed < size:
            before = self.completed
            yield before
            try:
                async for completed in self._send_part():
                    yield completed
            except UpstreamError as error:
                failures = 1 if self.completed > before else failures + 1
                if failures >= self.attempts:
                    hint = "push again to go on where it stopped"
                    raise UpstreamError(error.message, code="NET005", hint=hint) from error
                await self.sleep(min(8.0, 0.5 * 2**failures))
                with suppress(UpstreamError):  # the next part tells
                    await self._ask()
        await self._commit()
        yield size

    async def _begin(self, mount: str | None) -> bool:
        """Continue an earlier upload, or begin one. Returns False if the registry has found the blob in `mount`."""
        noted = await to_transfer_thread(read_bounded, self.note, MAX_ADDRESS, self.note.name)
        if noted is not None:
            self._address = noted.decode("utf-8", "replace")
            with suppress(OllmlxError):
                if await self._ask():
                    return True
        query = f"?{urlencode({'mount': self.layer.digest, 'from': mount})}" if mount else ""
        url = f"{self.registry.base}blobs/uploads/{query}"
        answer = await self.registry.send("POST", url, content=b"")
        if answer.status_code == 201:
            return False
        if answer.status_code != 202:
            raise self.registry.refused(answer.status_code)
        await self._follow(url, answer)
        return True

    async def _ask(self) -> bool:
        """Ask the registry how much it has, and go on from there. Returns False if it has forgotten the upload."""
        answer = await self.registry.send("GET", self._address)
        _, dash, last = answer.headers.get("Range", "").rpartition("-")
        if answer.status_code != 204 or not dash or not last.isdecimal():
            return False
        self.completed = min(int(last) + 1 if int(last) else 0, self.layer.size)
        await self._follow(self._address, answer)
        return True

    async def _follow(self, url: str, answer: httpx2.Response) -> None:
        """Use the address that an answer names for what comes next, and keep it for a later push."""
        found = answer.headers.get("Docker-Upload-Location") or answer.headers.get("Location")
        if found:
            self._address = urljoin(url, found)
            with storage_errors("cannot write to the models folder"):
                await to_transfer_thread(self.note.parent.mkdir, parents=True, exist_ok=True)
                await to_transfer_thread(write_whole, self.note, self._address.encode())

    async def _send_part(self) -> AsyncIterator[int]:
        """Send the next part, or its rest; yields the bytes that were sent so far. Raises UpstreamError."""
        first = self.completed
        end = min((first // self.part + 1) * self.part, self.layer.size)
        sent: asyncio.Queue[int | None] = asyncio.Queue()
        headers = {"Content_Type": "application/octet-stream", "Content_Length": str(end - first)}

        async def patch() -> None:
            try:
                more = {"Content_Range": f"{first}-{end - 1}", "X_Redirect_Uploads": "1", **headers}
                url = self._address
                answer = await self.registry.send(
                    "PATCH", url, content=self._read(first, end, sent), log_in=False, **more
                )
                if answer.status_code == 307:  # the part goes to a store of files, without the registry's token
                    target = urljoin(url, answer.headers.get("Location", ""))
                    put = await self.registry.send(
                        "PUT", target, content=self._read(first, end, sent), log_in=False, **headers
                    )
                    _check(put, target)
                elif answer.status_code == 401:
                    await self.registry.log_in(answer.headers)
                    raise UpstreamError("the login has ended", code="NET006")  # this part is sent again
                else:
                    _check(answer, url)
                self.completed = end
                await self._follow(url, answer)
            finally:
                sent.put_nowait(None)

        task = asyncio.create_task(patch())
        try:
            while (count := await sent.get()) is not None:
                yield count
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _read(self, first: int, end: int, sent: asyncio.Queue[int | None]) -> AsyncIterator[bytes]:
        with self.file.open("rb") as file:
            file.seek(first)
            while first < end and (data := await to_transfer_thread(file.read, min(CHUNK, end - first))):
                yield data
                first += len(data)
                sent.put_nowait(first)

    async def _commit(self) -> None:
        """End the upload; the registry compares digests. Raises UpstreamError, Unauthorized, Forbidden."""
        parts = urlsplit(self._address)
        etag = await to_transfer_thread(_etag, self.file, self.part)
        query = urlencode([*parse_qsl(parts.query), ("digest", self.layer.digest), ("etag", etag)])
        answer = await self.registry.send("PUT", urlunsplit(parts._replace(query=query)), content=b"")
        await to_transfer_thread(self.note.unlink, missing_ok=True)
        if answer.status_code not in {200, 201, 202, 204}:
            raise self.registry.refused(answer.status_code)


def _check(answer: httpx2.Response, url: str) -> None:
    if answer.status_code not in {200, 201, 202, 204}:
        raise UpstreamError(
            f"{urlsplit(url).hostname} answered {answer.status_code} to a part of a file", code="NET005"
        )


def _etag(file: Path, part: int) -> str:
    """Return what stores of files call the hash of a file in parts: that of the parts' hashes, and their number."""
    hashes = []
    with file.open("rb") as opened:
        while True:
            hashed, left = hashlib.md5(usedforsecurity=False), part
            while left and (data := opened.read(min(CHUNK, left))):
                hashed.update(data)
                left -= len(data)
            if left == part:
                break
            hashes.append(hashed.digest())
    return f"{hashlib.md5(b''.join(hashes), usedforsecurity=False).hexdigest()}-{len(hashes)}"
