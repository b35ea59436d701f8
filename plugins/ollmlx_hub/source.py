"""The source "hub": repositories of a Hugging Face hub."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from ollmlx import HUB_HOSTS, ModelName, closing, load_catalogue
from ollmlx.errors import NotFound, StorageError, Unauthorized, Unsupported, UpstreamError
from ollmlx.storekit import (
    MAX_CONFIG,
    STEP_FILES,
    Download,
    check_space,
    download_client,
    fetch_file,
    fetch_outline,
    list_files,
    pull_progress,
    read_json,
    read_receipt,
    sha256_of,
    to_transfer_thread,
    write_receipt,
)
from ollmlx.storekit.download import ATTEMPTS, Sleep
from ollmlx.types import INSTALLED, RECEIPT, FetchedFile, FetchReceipt, InstalledModel, PullCandidate, PullProgress
from ollmlx_hub.client import DEFAULT_ENDPOINT, HubAccess, HubClient, RemoteFile, RepositoryListing
from ollmlx_hub.installer import PARTS
from ollmlx_hub.layout import MANIFEST, MODEL_SUFFIXES, TOKENIZERS

MAX_FILES = 1000
MAX_SMALL = 512 << 20  # bytes of all files but the weights
OUTLINES_AT_ONCE = 4
WEIGHT_SUFFIXES = (".safetensors", ".gguf", "model.bin")

_WEIGHTS = re.compile(r"model[A-Za-z0-9_.\-]*\.safetensors")
_SMALL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\.(json|txt|jinja|model|tiktoken)|LICEN[CS]E(\.[A-Za-z]+)?")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")
_DESCRIBING = ("config.json", "modules.json", "1_Pooling/config.json")
"""Files beside the weights from which a model's kind and memory are known."""
_UNUSED = ("training_args", "onnx", "openvino", "tf_model", "flax_model", "trainer_state", "optimizer")


class HubSource:
    """Fetches `org/name[:revision]`, and for a name of the catalogue the repository that it stands for.

    The hub's own host may be on a private address if it is not the usual one: then a person has named it.
    """

    name = "hub"
    store = "mlx"

    def __init__(
        self,
        access: HubAccess,
        *,
        private_hosts: Sequence[str] = (),
        attempts: int = ATTEMPTS,
        sleep: Sleep = asyncio.sleep,
        public: bool = False,
    ) -> None:
        self.client = HubClient(access)
        own = () if access.endpoint == DEFAULT_ENDPOINT else (urlsplit(access.endpoint).hostname or "",)
        self.private_hosts = (*own, *private_hosts)
        self.public = public
        self.attempts = attempts
        self._sleep = sleep

    def provides(self, name: ModelName) -> str | None:
        """`hub:org/name@revision`. None for a name without an organisation, and for a host other than the hub's."""
        found = _repository(name)
        return f"hub:{found[0]}@{found[1]}" if found is not None else None

    def format(self, name: ModelName) -> str:
        return "mlx"

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Download the files that MLX needs, and check each against the hub's hash."""
        found = _repository(name)
        if found is None:
            raise NotFound(f"{name.short} names no repository", code="MDL002", hint="use ORG/NAME")
        listing = await to_transfer_thread(self.client.listing, *found)
        async with closing(self.fetch_files(listing, select_files(listing), into, f"hub:{found[0]}@{found[1]}")) as all:
            async for step in all:
                yield step

    async def fetch_files(
        self, listing: RepositoryListing, wanted: Sequence[RemoteFile], into: Path, origin: str
    ) -> AsyncIterator[PullProgress]:
        """Download files of a repository, small ones first, and write the receipt when all are there and right."""
        large = [file for file in wanted if file.sha256 is not None and file.path.endswith(WEIGHT_SUFFIXES)]
        small = [file for file in wanted if file not in large]
        etags = "".join(file.etag for file in small)
        digest = f"sha256:{hashlib.sha256(etags.encode()).hexdigest()}"  # the small files are reported as one
        total, completed = sum(file.size for file in small), 0
        target = FetchTarget(into)
        await to_transfer_thread(target.prepare, wanted)
        async with download_client(self.private_hosts) as client:
            for file in small + large:
                async with closing(self._fetch(client, listing, file, target)) as steps:
                    async for step in steps:
                        if file in large:
                            yield step
                if file in small:
                    completed += file.size
                    yield pull_progress(digest, total, completed)
                if file.path == "config.json" and any(_WEIGHTS.fullmatch(each.path) for each in wanted):
                    await to_transfer_thread(_check_config, listing.repo, into / file.path)
        receipt = FetchReceipt(
            source=origin,
            revision=listing.commit,
            license=listing.license,
            files=tuple(target.ready[file.path] for file in wanted),
        )
        await to_transfer_thread(target.finish, receipt)

    async def preview(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullCandidate]:
        """Yield the repository of a name, with its configuration and the headers of its weights."""
        found = _repository(name)
        if found is None:
            raise NotFound(f"{name.short} names no repository", code="MDL002", hint="use ORG/NAME")
        listing = await to_transfer_thread(self.client.listing, *found)
        wanted = select_files(listing)
        outlined = [file for file in wanted if file.path.endswith(WEIGHT_SUFFIXES) or file.path in _DESCRIBING]
        async with download_client(self.private_hosts) as client:
            await self.outline(client, listing, outlined, into)
        yield PullCandidate(
            origin=f"hub:{found[0]}@{found[1]}", format="mlx", size=sum(file.size for file in wanted), path=into
        )

    async def outline(
        self, client: httpx2.AsyncClient, listing: RepositoryListing, files: Iterable[RemoteFile], into: Path
    ) -> None:
        """Write the outlines of files of a repository into a folder, several at a time."""
        turns = asyncio.Semaphore(OUTLINES_AT_ONCE)

        async def outline(file: RemoteFile) -> None:
            async with turns:
                url = await to_transfer_thread(self.client.file_url, listing, file)
                await fetch_outline(client, url, into / file.path, size=file.size, headers=self.client.access.headers)

        await asyncio.gather(*map(outline, files))

    async def push(
        self, model: InstalledModel, target: ModelName, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        """Upload an installed model's files, to a new private repository unless `public`. Raises Unauthorized.

        The hub's address is in the settings, so `insecure` changes nothing.
        """
        if model.format != "mlx":
            raise Unsupported(
                f"{model.name.short} is not an MLX model: it is pushed to a registry, as HOST/ORG/NAME", code="MDL005"
            )
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
        found = await to_transfer_thread(list_files, model.path, model.path.parents[1], MANIFEST)
        files = [file.path for file in found if file.path.endswith(MODEL_SUFFIXES)]
        pushing = PullProgress(status=f"pushing {model.digest[:12]}", digest=f"sha256:{model.digest}", total=model.size)
        yield pushing
        message = f"Upload {target.short}"
        await to_transfer_thread(self.client.upload, repo, model.path, files, message, public=self.public)
        yield pushing.model_copy(update={"completed": model.size})
        yield PullProgress(status="pushing manifest")
        yield PullProgress(status="success")

    async def _fetch(
        self, client: httpx2.AsyncClient, listing: RepositoryListing, file: RemoteFile, target: FetchTarget
    ) -> AsyncIterator[PullProgress]:
        """Fetch one file, unless it is there, through `.parts`, where it is named by its content.

        The part of another revision has another name, and is never continued.
        """
        digest = f"sha256:{file.etag}"
        if file.path not in target.ready:
            download = Download(
                client,
                await to_transfer_thread(self.client.file_url, listing, file),
                target.folder / PARTS / file.etag,
                size=file.size,
                sha256=file.sha256,
                headers=self.client.access.headers,
                attempts=self.attempts,
                sleep=self._sleep,
            )
            async with closing(fetch_file(download, digest, file.size, f"{listing.repo}/{file.path}")) as steps:
                async for step in steps:
                    yield step
            await to_transfer_thread(target.accept, download.target, file)
        yield pull_progress(digest, file.size, file.size)


def select_files(listing: RepositoryListing) -> list[RemoteFile]:
    """Return the files to fetch, small ones first. Python code and pickles are never among them.

    Raises Unsupported if MLX cannot use the repository.
    """
    chosen = [file for file in listing.files if _PATH.fullmatch(file.path) and ".." not in file.path]
    weights = [file for file in chosen if _WEIGHTS.fullmatch(file.path)] or _whisper(chosen)
    small = [file for file in chosen if _SMALL.fullmatch(file.path) and not file.path.startswith(_UNUSED)]
    small += [file for file in chosen if STEP_FILES.fullmatch(file.path)]
    names = {file.path for file in small}
    if not weights:
        raise _unusable(listing)
    if "config.json" not in names:
        raise Unsupported(f"{listing.repo} has no config.json: MLX cannot load it", code="MDL005")
    if not names & {*TOKENIZERS, "tokenizer_config.json"}:
        raise Unsupported(f"{listing.repo} has no tokenizer: MLX cannot use it", code="MDL005")
    if len(small) + len(weights) > MAX_FILES or sum(file.size for file in small) > MAX_SMALL:
        raise UpstreamError(f"{listing.repo} is implausible: it has too many or too large files beside its weights")
    return sorted(small, key=lambda file: file.path) + sorted(weights, key=lambda file: file.path)


def _whisper(files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Return the weights of a Whisper model for CTranslate2; its store looks into the file before it installs it."""
    vocabularies = {"vocabulary.txt", "vocabulary.json"} & {file.path for file in files}
    return [file for file in files if file.path == "model.bin" and vocabularies]


def _unusable(listing: RepositoryListing) -> Unsupported:
    paths = [file.path for file in listing.files]
    if any(path.endswith(".gguf") for path in paths):
        reason = "it holds GGUF files only"
        converted = f"mlx-community/{listing.repo.rpartition('/')[2].removesuffix('-GGUF')}-4bit"
        hint = f"look for a conversion: {converted}; hf.co/{listing.repo} pulls the GGUF file, for llama.cpp"
    elif any(path.endswith(".safetensors") for path in paths):
        reason = "its safetensors files are not those of a language model (model*.safetensors)"
        hint = "adapters are used with ADAPTER in a Modelfile"
    elif any(path.endswith((".bin", ".pt", ".pth", ".npz")) for path in paths):
        reason = "its weights are pickles or arrays, which are never loaded"
        hint = "look for a repository with safetensors, for example at mlx-community"
    else:
        reason, hint = "it holds no weights", "check the name"
    return Unsupported(f"{listing.repo} has no weights that MLX can use: {reason}", code="MDL005", hint=hint)


def _repository(name: ModelName) -> tuple[str, str] | None:
    """Return repository and revision of a name, or None if it names none."""
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


class FetchTarget:
    """The folder that a repository is fetched into, and the files of it that are ready."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ready: dict[str, FetchedFile] = {}

    def prepare(self, wanted: Iterable[RemoteFile]) -> None:
        """Find the files that are there and right, by a receipt or by their hash, and check the space for the rest."""
        known: dict[tuple[str, int, int], FetchedFile] = {}
        for name in (INSTALLED, RECEIPT):
            receipt = read_receipt(self.folder / name)
            known |= {(file.path, file.size, file.mtime_ns): file for file in (receipt.files if receipt else ())}
        missing = 0
        for file in wanted:
            path = self.folder / file.path
            if path.is_file() and path.stat().st_size == file.size:
                earlier = known.get((file.path, file.size, path.stat().st_mtime_ns))
                if earlier is not None and earlier.etag == file.etag:
                    self.ready[file.path] = earlier
                elif _content_hash(path, file) == file.etag:
                    self.ready[file.path] = _fetched(path, file)
            if file.path not in self.ready:
                missing += file.size
        parts = sum(part.stat().st_size for part in (self.folder / PARTS).glob("*") if part.is_file())
        check_space(self.folder, missing - parts)

    def accept(self, part: Path, file: RemoteFile) -> None:
        """Check a file without a sha256 against the hub's hash, and rename it into the folder. Raises UpstreamError."""
        if file.sha256 is None and _content_hash(part, file) != file.etag:
            part.unlink(missing_ok=True)
            raise UpstreamError(f"checksum mismatch for {file.path}: the hub says {file.etag}", hint="pull again")
        path = self.folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
        self.ready[file.path] = _fetched(path, file)

    def finish(self, receipt: FetchReceipt) -> None:
        """Remove the files that are not of this revision, then write the receipt: the fetch is complete."""
        wanted = {file.path for file in receipt.files}
        for path in [path for path in self.folder.rglob("*") if path.is_file()]:
            relative = path.relative_to(self.folder).as_posix()
            if relative not in wanted and not relative.startswith("."):
                path.unlink()
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)
        write_receipt(self.folder / RECEIPT, receipt)


def _content_hash(path: Path, file: RemoteFile) -> str:
    """Return the hash that the hub lists for a file: its sha256, or git's object id for small files."""
    if file.sha256 is not None:
        return sha256_of(path)
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _fetched(path: Path, file: RemoteFile) -> FetchedFile:
    sha256 = file.sha256 or sha256_of(path)
    return FetchedFile(path=file.path, size=file.size, sha256=sha256, mtime_ns=path.stat().st_mtime_ns, etag=file.etag)


def _check_config(repo: str, path: Path) -> None:
    """Raise UpstreamError for a model without a type, before its weights are downloaded: it could not be loaded."""
    try:
        config = read_json(path.parent, path.name, MAX_CONFIG)
    except StorageError as error:
        raise UpstreamError(f"{repo}: {error.message}", code="MDL003") from error
    if config is None or not isinstance(config.get("model_type"), str):
        raise UpstreamError(f"{repo}: config.json names no model_type; MLX cannot load it", code="MDL003")
