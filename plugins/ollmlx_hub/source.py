"""The source "hub": repositories of a Hugging Face hub."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import httpx2

from ollmlx import Download, ModelName, closing, format_size
from ollmlx.errors import Forbidden, NotFound, StorageError, Unauthorized, UpstreamError
from ollmlx.model.catalogue import load_catalogue
from ollmlx.model.names import HUB_HOSTS
from ollmlx.types import INSTALLED, RECEIPT, FetchedFile, FetchReceipt, InstalledModel, PullProgress
from ollmlx_hub.client import Access, HubClient, Listing, RemoteFile
from ollmlx_hub.installer import PARTS
from ollmlx_hub.manifest import read_receipt, sha256_of, write_receipt
from ollmlx_hub.selection import select

SPARE = 64 << 20  # bytes that stay free on the disk
STEPS = 400  # progress reports for one large file, at most


class HubSource:
    """Fetches `org/name[:revision]`; a name of the catalogue stands for its repository."""

    name = "hub"
    store = "mlx"

    def __init__(
        self, access: Access, *, attempts: int = 6, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.client = HubClient(access)
        self.attempts = attempts
        self._sleep = sleep

    def provides(self, name: ModelName) -> str | None:
        """`hub:org/name@revision`; None for a name without an organisation, or with a host that is no hub."""
        found = _repository(name)
        return f"hub:{found[0]}@{found[1]}" if found is not None else None

    def format(self, name: ModelName) -> str:
        return "mlx"

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Download what MLX needs of a repository, each file checked against the hub's own hash."""
        found = _repository(name)
        if found is None:
            raise NotFound(f"{name.short} names no repository", code="MDL002", hint="use ORG/NAME")
        listing = await asyncio.to_thread(self.client.listing, *found)
        wanted = select(listing)
        ready = await asyncio.to_thread(_ready, into, wanted)
        await asyncio.to_thread(_check_space, into, [file for file in wanted if file.path not in ready])
        trusted = await asyncio.to_thread(httpx2.create_ssl_context)  # reads all certificates: too slow for the loop
        async with httpx2.AsyncClient(timeout=httpx2.Timeout(30.0, read=60.0), verify=trusted) as client:
            async with closing(self._small(client, listing, wanted, into, ready)) as steps:
                async for step in steps:
                    yield step
            for file in wanted:
                if file.sha256 is not None and file.path.endswith(".safetensors"):
                    async with closing(self._large(client, listing, file, into, ready)) as steps:
                        async for step in steps:
                            yield step
        receipt = FetchReceipt(
            source=f"hub:{found[0]}@{found[1]}",
            revision=listing.commit,
            license=listing.license,
            files=tuple(ready[file.path] for file in wanted),
        )
        await asyncio.to_thread(_finish, into, receipt)

    async def push(self, model: InstalledModel, target: ModelName) -> AsyncIterator[PullProgress]:
        """Upload an installed model's files. Raises Unauthorized without a token."""
        repo = target.repo_id
        if self.client.access.token is None:
            raise Unauthorized(
                "pushing needs a token of the hub",
                code="NET006",
                hint=f"set HF_TOKEN to a token with write access from {self.client.access.endpoint}/settings/tokens",
            )
        if repo is None:
            raise NotFound(f"{target.short} names no repository", code="MDL001", hint="use ORG/NAME")
        yield PullProgress(status="retrieving manifest")
        files = await asyncio.to_thread(_publishable, model.path)
        yield PullProgress(status=f"pushing {model.digest[:12]}", digest=f"sha256:{model.digest}", total=model.size)
        await asyncio.to_thread(self.client.upload, repo, model.path, files, f"Upload {target.short}")
        yield PullProgress(
            status=f"pushing {model.digest[:12]}",
            digest=f"sha256:{model.digest}",
            total=model.size,
            completed=model.size,
        )
        yield PullProgress(status="pushing manifest")
        yield PullProgress(status="success")

    # -- inside ------------------------------------------------------------------------------------------------------

    async def _small(
        self,
        client: httpx2.AsyncClient,
        listing: Listing,
        wanted: Iterable[RemoteFile],
        into: Path,
        ready: dict[str, FetchedFile],
    ) -> AsyncIterator[PullProgress]:
        """Everything but the weights, reported as one line; then the configuration is looked at."""
        files = [file for file in wanted if not file.path.endswith(".safetensors") or file.sha256 is None]
        digest = hashlib.sha256("".join(file.etag for file in files).encode()).hexdigest()
        total, completed = sum(file.size for file in files), 0
        for file in files:
            if file.path not in ready:
                async with closing(self._download(client, listing, file, into, ready)) as sizes:
                    async for _ in sizes:
                        pass
            completed += file.size
            yield PullProgress(
                status=f"pulling {digest[:12]}", digest=f"sha256:{digest}", total=total, completed=completed
            )
            if file.path == "config.json":
                await asyncio.to_thread(_check_config, listing.repo, into / file.path)

    async def _large(
        self,
        client: httpx2.AsyncClient,
        listing: Listing,
        file: RemoteFile,
        into: Path,
        ready: dict[str, FetchedFile],
    ) -> AsyncIterator[PullProgress]:
        def at(completed: int) -> PullProgress:
            return PullProgress(
                status=f"pulling {file.etag[:12]}", digest=f"sha256:{file.etag}", total=file.size, completed=completed
            )

        if file.path not in ready:
            told = -file.size
            async with closing(self._download(client, listing, file, into, ready)) as sizes:
                async for completed in sizes:
                    if completed - told >= file.size // STEPS or completed == file.size:
                        told = completed
                        yield at(completed)
        yield at(file.size)

    async def _download(
        self,
        client: httpx2.AsyncClient,
        listing: Listing,
        file: RemoteFile,
        into: Path,
        ready: dict[str, FetchedFile],
    ) -> AsyncIterator[int]:
        """One file through `.parts`, where it is named by its content: an older revision's part is never continued."""
        url = await asyncio.to_thread(self.client.check, listing, file)
        download = Download(
            client,
            url,
            into / PARTS / file.etag,
            size=file.size,
            sha256=file.sha256,
            headers=self.client.access.headers,
            attempts=self.attempts,
            sleep=self._sleep,
        )
        try:
            async with closing(download.run()) as sizes:
                async for completed in sizes:
                    yield completed
        except (Unauthorized, Forbidden, NotFound) as error:
            raise UpstreamError(f"{listing.repo}/{file.path}: {error.message}", code="NET005") from error
        ready[file.path] = await asyncio.to_thread(_accept, download.target, into, file, download.sha256)


def _repository(name: ModelName) -> tuple[str, str] | None:
    if name.host is not None or name.via not in (None, *HUB_HOSTS):
        return None
    revision = "main" if name.tag == "latest" else name.tag
    if name.repo_id is not None:
        return name.repo_id, revision
    for short, full in load_catalogue().items():
        target = ModelName.parse(full)
        if ModelName.parse(short) == name and target.repo_id is not None:
            return target.repo_id, "main"
    return None


def _ready(into: Path, wanted: Iterable[RemoteFile]) -> dict[str, FetchedFile]:
    """What lies in the folder already and is right: known from a receipt, or hashed now."""
    known: dict[tuple[str, int, int], FetchedFile] = {}
    for name in (INSTALLED, RECEIPT):
        receipt = read_receipt(into / name)
        known |= {(file.path, file.size, file.mtime_ns): file for file in (receipt.files if receipt else ())}
    ready: dict[str, FetchedFile] = {}
    for file in wanted:
        path = into / file.path
        if not path.is_file() or path.stat().st_size != file.size:
            continue
        earlier = known.get((file.path, file.size, path.stat().st_mtime_ns))
        if earlier is not None and earlier.etag == file.etag:
            ready[file.path] = earlier
        elif _content(path, file) == file.etag:
            ready[file.path] = _described(path, file, file.sha256 or sha256_of(path))
    return ready


def _content(path: Path, file: RemoteFile) -> str:
    """The hash by which the hub knows a file's content: sha256, or git's object id for small files."""
    if file.sha256 is not None:
        return sha256_of(path)
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _accept(part: Path, into: Path, file: RemoteFile, sha256: str) -> FetchedFile:
    if _content(part, file) != file.etag if file.sha256 is None else sha256 != file.sha256:
        part.unlink(missing_ok=True)
        raise UpstreamError(f"checksum mismatch for {file.path}: the hub says {file.etag}", hint="pull again")
    target = into / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    part.replace(target)
    return _described(target, file, sha256)


def _described(path: Path, file: RemoteFile, sha256: str) -> FetchedFile:
    return FetchedFile(path=file.path, size=file.size, sha256=sha256, mtime_ns=path.stat().st_mtime_ns, etag=file.etag)


def _check_space(into: Path, missing: Iterable[RemoteFile]) -> None:
    parts = into / PARTS
    needed = sum(file.size for file in missing) - sum(part.stat().st_size for part in parts.glob("*") if part.is_file())
    free = shutil.disk_usage(into).free
    if needed + SPARE > free:
        raise StorageError(
            f"not enough disk space: {format_size(needed)} to download, {format_size(free)} free",
            code="STO003",
            hint="ollmlx rm MODEL frees space; OLLAMA_MODELS moves the models folder",
        )


def _check_config(repo: str, path: Path) -> None:
    """Refuse early: a model without a type cannot be loaded, however large its weights are."""
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UpstreamError(f"{repo}: config.json is not valid JSON", code="MDL003") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UpstreamError(f"{repo}: config.json names no model_type; MLX cannot load it", code="MDL003")


def _finish(into: Path, receipt: FetchReceipt) -> None:
    """Only what belongs to this revision stays; then the receipt says that all of it is there."""
    wanted = {file.path for file in receipt.files}
    for path in [path for path in into.rglob("*") if path.is_file()]:
        relative = path.relative_to(into).as_posix()
        if relative not in wanted and not relative.startswith("."):
            path.unlink()
    shutil.rmtree(into / PARTS, ignore_errors=True)
    write_receipt(into / RECEIPT, receipt)


def _publishable(folder: Path) -> list[str]:
    keep = (".safetensors", ".json", ".txt", ".jinja", ".model", ".tiktoken", ".md")
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in keep and path.name != "ollmlx.json" and not path.name.startswith(".")
    )
