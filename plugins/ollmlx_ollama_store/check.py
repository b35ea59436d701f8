"""The doctor's check of Ollama's models: every model is complete and has a name of its own."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ollmlx import Finding, SafeCommand, Severity
from ollmlx.errors import Unsupported
from ollmlx.storekit import free_name, sha256_of
from ollmlx.types import InstalledModel
from ollmlx_ollama_store.layout import SOURCE
from ollmlx_ollama_store.store import OllamaStore

DAMAGED: Final = "MDL003"
SAME_NAME: Final = "STO007"


class OllamaCheck:
    """Reads every manifest and, with `--deep`, hashes every blob. `root` is the models folder."""

    name = "ollama-models"
    group = "storage"
    codes: tuple[str, ...] = (DAMAGED, SAME_NAME)

    def __init__(self, root: Path, folders: Path | None = None) -> None:
        store = OllamaStore(root, folders)
        self.layout, self.index = store.layout, store.index

    async def run(self, context: Any) -> Sequence[Finding]:
        """Return a finding for each damaged model, each wrong blob and each name that two models have."""
        return await asyncio.to_thread(lambda: list(self._findings(context)))

    def _findings(self, context: Any) -> Iterator[Finding]:
        yield from self._unlisted()
        entries = self.layout.entries()
        known = {entry.path for entry in entries}
        for path in self.layout.listing().files:
            if path not in known:
                title = f"{path.relative_to(self.layout.manifests)} is not a model name"
                yield self._damaged(path, title, (self._aside(path),))
        users: dict[str, list[str]] = defaultdict(list)  # digest -> full names of the models that need the blob
        models: list[InstalledModel] = []
        for entry in entries:
            reading = self.index.reading(entry)
            if reading.model is not None:
                models.append(reading.model)
                for layer in reading.manifest.blobs() if reading.manifest else ():
                    users[layer.digest].append(entry.full_name)
            elif not isinstance(reading.error, Unsupported) and reading.error is not None:
                title = f"{entry.name.short} is damaged: {reading.error.message.partition(': ')[2]}"
                remove = f"ollmlx rm {entry.name.short}"
                if (renamed := self._old_names(reading.manifest)) is not None:
                    yield self._damaged(entry.path, f"the blobs of {entry.name.short} have their old names", renamed)
                    continue
                if reading.manifest is not None and any(layer.from_ for layer in reading.manifest.layers):
                    aside = self._aside(entry.path)  # it was made here, so no registry has it
                    yield self._damaged(entry.path, f"{title}; it was made on this machine", (aside,), (remove,))
                    continue
                pull = SafeCommand(f"ollmlx pull {entry.full_name}", asks=True, changes=entry.path)
                yield self._damaged(entry.path, title, (pull,), (remove,))
        if context.deep:
            yield from self._wrong_blobs(users)
        yield from _same_names(models)

    def _old_names(self, manifest: Any) -> tuple[str, ...] | None:
        """Return the commands that rename blobs that are there as `sha256:…`, as Ollama named them until 0.1.31."""
        blobs = [self.layout.blob(layer.digest) for layer in manifest.blobs()] if manifest else []
        old = {blob: blob.with_name(blob.name.replace("-", ":", 1)) for blob in blobs if not blob.exists()}
        if not old or not all(path.exists() for path in old.values()):
            return None
        moves = (f"mv {shlex.quote(str(path))} {shlex.quote(str(blob))}" for blob, path in old.items())
        return tuple(map(SafeCommand, moves))

    def _unlisted(self) -> Iterator[Finding]:
        """Findings for folders whose models are hidden. The doctor's own check reports the folder `manifests`."""
        for folder, error in self.layout.listing().unlisted.items():
            if folder != self.layout.manifests:
                title = f"models in {folder.relative_to(self.layout.root)} cannot be listed: {error.strerror or error}"
                quoted = shlex.quote(str(folder))
                own = (f'sudo chown -R "$(id -un)" {quoted}',) if _is_of_another(folder) else ()
                grant = SafeCommand(f"chmod -R u+rX {quoted}")
                yield self._damaged(folder, title, (*own, grant), (self._aside(folder),))

    def _damaged(self, path: Path, title: str, commands: tuple[str, ...], instead: tuple[str, ...] = ()) -> Finding:
        shown = path.relative_to(self.layout.manifests) if path.is_relative_to(self.layout.manifests) else path.name
        return Finding.of(DAMAGED, title, evidence=[str(path)], commands=commands, instead=instead, subject=str(shown))

    def _wrong_blobs(self, users: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
        for digest, models in sorted(users.items()):
            path = self.layout.blob(digest)
            if f"sha256:{sha256_of(path)}" != digest:
                title = f"blobs/{path.name[:19]}… does not have the digest of its name"
                pulls = [f"ollmlx pull {model}" for model in dict.fromkeys(models)]
                yield self._damaged(path, title, (self._aside(path), *pulls))

    def _aside(self, path: Path) -> str:
        """Return the command that moves a file out of the way, and keeps it."""
        to = free_name(self.layout.root / f".{path.name}.moved")
        return SafeCommand(f"mv {shlex.quote(str(path))} {shlex.quote(str(to))}", asks=True)


def _same_names(models: Sequence[InstalledModel]) -> Iterator[Finding]:
    """Findings for names that two manifests have: only the first one can be used."""
    by_name: dict[str, list[InstalledModel]] = defaultdict(list)
    for model in models:
        by_name[model.name.key].append(model)
    for same in by_name.values():
        if len(same) > 1:
            name, colon, tag = same[0].name.short.partition(":")
            second = same[1].source.removeprefix(SOURCE)
            yield Finding.of(
                SAME_NAME,
                f"{len(same)} models are called {same[0].name.short}",
                evidence=[model.source for model in same],
                commands=[SafeCommand(f"ollmlx cp {second} {name}-2{colon}{tag}", asks=True), f"ollmlx rm {second}"],
                subject=same[0].name.short,
                severity=Severity.WARNING,
            )


def _is_of_another(path: Path) -> bool:
    """Return True for a file of another user; False also where that cannot be seen."""
    try:
        return path.lstat().st_uid != os.getuid()
    except OSError:
        return False
