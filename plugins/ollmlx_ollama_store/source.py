"""The source "ollama": models of a registry that speaks as Ollama's does, Hugging Face's GGUF repositories too."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import httpx2
from pydantic import ValidationError

from ollmlx import Download, ModelName, closing, format_size
from ollmlx.errors import Forbidden, NotFound, StorageError, Unauthorized, Unsupported, UpstreamError
from ollmlx.types import INSTALLED, RECEIPT, FetchedFile, FetchReceipt, PullProgress
from ollmlx_ollama_store.description import MAX_TEXT
from ollmlx_ollama_store.installer import STAGED_MANIFEST
from ollmlx_ollama_store.layout import DEFAULT_HOST, DEFAULT_NAMESPACE
from ollmlx_ollama_store.manifest import MAX_CONFIG, Layer, Manifest, read_config, read_manifest
from ollmlx_ollama_store.registry import Place, Registry

HUBS = ("hf.co", "huggingface.co")
SPARE = 64 << 20  # bytes that stay free on the disk
STEPS = 400  # progress reports for one blob, at most
TEXTS = ("template", "system", "params", "messages", "license")


class OllamaSource:
    """Fetches names with a registry's host, and names without any from `registry` (empty: those not)."""

    name = "ollama"
    store = "ollama"

    def __init__(
        self,
        registry: str = DEFAULT_HOST,
        *,
        attempts: int = 6,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.registry = registry
        self.attempts = attempts
        self._sleep = sleep

    def provides(self, name: ModelName) -> str | None:
        """`ollama:host/namespace/model:tag`; None for `org/name` without a host, which means a hub's repository."""
        place = self._place(name)
        return f"ollama:{place}" if place is not None else None

    def format(self, name: ModelName) -> str:
        return "gguf"

    async def fetch(self, name: ModelName, into: Path, *, insecure: bool = False) -> AsyncIterator[PullProgress]:
        """Download the blobs that are missing, each checked against its digest; then the manifest is left."""
        place = self._place(name)
        if place is None:
            raise NotFound(f"{name.short} names no registry", code="MDL002", hint=f"use {DEFAULT_HOST}/{name.short}")
        trusted = await asyncio.to_thread(httpx2.create_ssl_context)  # reads all certificates: too slow for the loop
        async with httpx2.AsyncClient(timeout=httpx2.Timeout(30.0, read=60.0), verify=trusted) as client:
            registry = Registry(client, place, insecure=insecure)
            data = await registry.manifest()
            manifest = _manifest(data, place)
            present = await asyncio.to_thread(_present, into)
            missing = [layer for layer in dict.fromkeys(manifest.blobs()) if present.get(layer.digest) != layer.size]
            await asyncio.to_thread(_check_space, into, missing)
            done: dict[str, FetchedFile] = {}
            for layer in dict.fromkeys(manifest.blobs()):
                async with closing(self._blob(registry, layer, into, layer in missing, done)) as steps:
                    async for step in steps:
                        yield step
                if layer == manifest.config and layer in missing:
                    await asyncio.to_thread(_check_config, place, into / _file(layer))
        receipt = FetchReceipt(source=f"ollama:{place}", files=tuple(done.values()))
        await asyncio.to_thread(_leave, into, data, receipt)

    async def _blob(
        self, registry: Registry, layer: Layer, into: Path, missing: bool, done: dict[str, FetchedFile]
    ) -> AsyncIterator[PullProgress]:
        def at(completed: int) -> PullProgress:
            short = layer.digest.removeprefix("sha256:")[:12]
            return PullProgress(status=f"pulling {short}", digest=layer.digest, total=layer.size, completed=completed)

        target = into / _file(layer)
        if missing and not target.is_file():
            told = -layer.size
            async with closing(self._download(registry, layer, target)) as sizes:
                async for completed in sizes:
                    if completed - told >= layer.size // STEPS or completed == layer.size:
                        told = completed
                        yield at(completed)
            found = await asyncio.to_thread(target.stat)
            done[layer.digest] = FetchedFile(
                path=target.name, size=found.st_size, sha256=target.name[7:], mtime_ns=found.st_mtime_ns
            )
        yield at(layer.size)

    async def _download(self, registry: Registry, layer: Layer, target: Path) -> AsyncIterator[int]:
        download = Download(
            registry.client,
            registry.blob(layer.digest),
            target,
            size=layer.size,
            sha256=layer.digest.removeprefix("sha256:"),
            headers=registry.headers,
            attempts=self.attempts,
            sleep=self._sleep,
        )
        try:
            async with closing(download.run()) as sizes:
                async for completed in sizes:
                    yield completed
        except (Unauthorized, Forbidden, NotFound) as error:
            raise UpstreamError(f"{registry.place}: {error.message}", code="NET005") from error

    def _place(self, name: ModelName) -> Place | None:
        if name.host is not None:
            host = name.host
        elif name.via in HUBS:
            host = name.via
        elif name.via is not None:
            host = DEFAULT_HOST
        elif name.org is None:
            host = self.registry
        else:
            return None
        return Place(host, name.org or DEFAULT_NAMESPACE, name.name, name.tag) if host else None


def _file(layer: Layer) -> str:
    return layer.digest.replace(":", "-")  # checked where the manifest was read


def _manifest(data: bytes, place: Place) -> Manifest:
    """What the registry answered, when it can be a model. Raises UpstreamError."""
    try:
        manifest = read_manifest(data, "its answer")
    except StorageError as error:
        raise UpstreamError(
            f"{place.host} did not answer with a manifest for {place}: {error.message}",
            code="NET005",
            hint="is this a registry? A proxy or a login page may have answered",
        ) from None
    implausible = [layer for layer in manifest.layers if layer.kind in TEXTS and layer.size > MAX_TEXT]
    if implausible or manifest.config.size > MAX_CONFIG:
        raise UpstreamError(f"{place} is implausible: its texts are larger than {format_size(MAX_TEXT)}", code="NET005")
    return manifest


def _check_config(place: Place, path: Path) -> None:
    """Refuse early what nothing here could run, before its weights come. Raises Unsupported."""
    try:
        config = read_config(path.read_bytes(), "its configuration")
    except StorageError as error:
        raise UpstreamError(f"{place}: {error.message}", code="NET005") from None
    if config.remote_host or config.remote_model:
        raise Unsupported(f"{place} runs at {config.remote_host or 'ollama.com'}: there is nothing to pull")
    if config.model_format not in ("", "gguf"):
        raise Unsupported(
            f"{place} is no GGUF model: it has the format {config.model_format[:40]!r}",
            code="MDL005",
            hint="look for a conversion of it at mlx-community",
        )


def _present(into: Path) -> dict[str, int]:
    """Sizes of the blobs that the store has already, by digest."""
    try:
        receipt = FetchReceipt.model_validate_json((into / INSTALLED).read_bytes())
    except (OSError, ValidationError):
        return {}
    return {f"sha256:{file.sha256}": file.size for file in receipt.files}


def _check_space(into: Path, missing: Iterable[Layer]) -> None:
    here = sum(part.stat().st_size for part in into.glob("sha256-*") if part.is_file())
    needed = sum(layer.size for layer in missing) - here
    free = shutil.disk_usage(into).free
    if needed + SPARE > free:
        raise StorageError(
            f"not enough disk space: {format_size(needed)} to download, {format_size(free)} free",
            code="STO003",
            hint="ollmlx rm MODEL frees space; OLLAMA_MODELS moves the models folder",
        )


def _leave(into: Path, manifest: bytes, receipt: FetchReceipt) -> None:
    (into / STAGED_MANIFEST).write_bytes(manifest)
    (into / RECEIPT).write_text(receipt.model_dump_json(), encoding="utf-8")
