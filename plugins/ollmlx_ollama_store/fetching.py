"""Fetching the layers of one manifest: one after another, or several at once where a model has a layer for each tensor.

Layers that the store has, or that an earlier try left whole, are not fetched; others go on where they ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Final

from ollmlx import closing
from ollmlx.storekit import Download, check_space, fetch_file, pull_progress, read_receipt, to_transfer_thread
from ollmlx.storekit.download import Sleep
from ollmlx.types import INSTALLED, FetchedFile, PullProgress
from ollmlx_ollama_store.layout import OllamaLayer
from ollmlx_ollama_store.registry_client import RegistryClient

AT_ONCE: Final = 8
"""Layers of a model of many that are fetched at once: most are small, and a request takes longer than its bytes."""
REPORT_SECONDS: Final = 1.0
WHOLE: Final = ("pulling model", "sha256:model")
"""Status and digest by which Ollama reports such a model: one bar, not a thousand."""


class LayerFetch:
    """Fetches layers from `registry` into a folder."""

    def __init__(self, registry: RegistryClient, into: Path, attempts: int, sleep: Sleep) -> None:
        self.registry = registry
        self.into = into
        self.attempts = attempts
        self.fetched: dict[str, FetchedFile] = {}
        self._sleep = sleep
        self._missing: set[str] = set()

    async def prepare(self, layers: Iterable[OllamaLayer]) -> None:
        """Find out which layers are missing. Raises StorageError if the disk has no space for them."""
        self._missing = await to_transfer_thread(_missing, layers, self.into)

    def target(self, layer: OllamaLayer) -> Path:
        """Return where a layer is staged. Its digest was checked when the manifest was parsed."""
        return self.into / layer.digest.replace(":", "-")

    async def one(self, layer: OllamaLayer) -> AsyncIterator[PullProgress]:
        """Fetch a layer if it is missing. The last step says that it is there."""
        if self._is_missing(layer):
            async with closing(self._run(self._download(layer), layer)) as steps:
                async for step in steps:
                    yield step
        yield pull_progress(layer.digest, layer.size, layer.size)

    async def together(self, layers: Sequence[OllamaLayer]) -> AsyncIterator[PullProgress]:
        """Fetch the missing ones of many layers, several at once, and report all layers as one."""
        layers = list({layer.digest: layer for layer in layers}.values())
        wanted = [layer for layer in layers if self._is_missing(layer)]
        downloads = {layer: self._download(layer) for layer in wanted}
        total = sum(layer.size for layer in layers)
        there = total - sum(layer.size for layer in wanted)
        turns = asyncio.Semaphore(AT_ONCE)

        async def run(layer: OllamaLayer, download: Download) -> None:
            async with turns, closing(self._run(download, layer)) as steps:
                async for _ in steps:
                    pass

        running = {asyncio.ensure_future(run(*each)) for each in downloads.items()}
        try:
            while running:
                finished, running = await asyncio.wait(
                    running, timeout=REPORT_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                for each in finished:
                    await each
                done = there + sum(download.completed for download in downloads.values())
                yield PullProgress(status=WHOLE[0], digest=WHOLE[1], total=total, completed=min(done, total))
        finally:
            for each in running:
                each.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        yield PullProgress(status=WHOLE[0], digest=WHOLE[1], total=total, completed=total)

    def _is_missing(self, layer: OllamaLayer) -> bool:
        return layer.digest in self._missing and not self.target(layer).is_file()

    def _download(self, layer: OllamaLayer) -> Download:
        return Download(
            self.registry.client,
            f"{self.registry.base}blobs/{layer.digest}",
            self.target(layer),
            size=layer.size,
            sha256=layer.digest.removeprefix("sha256:"),
            headers=self.registry.headers,
            attempts=self.attempts,
            sleep=self._sleep,
        )

    async def _run(self, download: Download, layer: OllamaLayer) -> AsyncIterator[PullProgress]:
        async with closing(fetch_file(download, layer.digest, layer.size, str(self.registry.model))) as steps:
            async for step in steps:
                yield step
        self.fetched[layer.digest] = await to_transfer_thread(_fetched, self.target(layer))


def _fetched(path: Path) -> FetchedFile:
    found = path.stat()
    sha256 = path.name.removeprefix("sha256-")
    return FetchedFile(path=path.name, size=found.st_size, sha256=sha256, mtime_ns=found.st_mtime_ns)


def _missing(layers: Iterable[OllamaLayer], into: Path) -> set[str]:
    """Return the digests that the store does not have. Raises StorageError if the disk has no space for them."""
    receipt = read_receipt(into / INSTALLED)
    present = {(f"sha256:{file.sha256}", file.size) for file in (receipt.files if receipt else ())}
    missing = {layer.digest: layer.size for layer in layers if (layer.digest, layer.size) not in present}
    partial = sum(part.stat().st_size for part in into.glob("sha256-*") if part.is_file())
    check_space(into, sum(missing.values()) - partial)
    return set(missing)
