"""The doctor's look at Ollama's own models: whole, and each under a name of its own."""

from __future__ import annotations

import asyncio
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ollmlx import Finding, Severity
from ollmlx.errors import Unsupported
from ollmlx.types import InstalledModel
from ollmlx_ollama_store.index import Shelf
from ollmlx_ollama_store.installer import sha256_of
from ollmlx_ollama_store.layout import Layout

DAMAGED: Final = "STO020"
TWICE: Final = "STO022"


class OllamaCheck:
    """`root` is the models folder."""

    name = "ollama-models"
    group = "storage"
    codes: tuple[str, ...] = (DAMAGED, TWICE)

    def __init__(self, root: Path, store: str = "ollama") -> None:
        self.layout = Layout(root)
        self.shelf = Shelf(self.layout, store)

    async def run(self, world: Any) -> Sequence[Finding]:
        """Read every manifest; with `--deep`, every blob."""
        return await asyncio.to_thread(lambda: list(self._look(world)))

    def _look(self, world: Any) -> Iterator[Finding]:
        entries = self.layout.entries()
        known = {entry.path for entry in entries}
        for path in self.layout.files():
            if path not in known:
                yield self._damaged(path, f"{path.relative_to(self.layout.manifests)} is no model's name", _gone(path))
        blobs: dict[str, list[str]] = defaultdict(list)
        models: list[InstalledModel] = []
        for entry in entries:
            reading = self.shelf.reading(entry)
            if reading.model is not None:
                models.append(reading.model)
                for layer in reading.manifest.blobs() if reading.manifest else ():
                    blobs[layer.digest].append(_full_name(entry.path))
            elif not isinstance(reading.error, Unsupported) and reading.error is not None:
                title = f"{entry.name.short} is damaged: {reading.error.message.partition(': ')[2]}"
                yield self._damaged(
                    entry.path, title, f"ollmlx pull {_full_name(entry.path)}", f"ollmlx rm {entry.name.short}"
                )
        if world.deep:
            yield from self._spoilt(blobs)
        yield from _twice(models)

    def _damaged(self, path: Path, title: str, command: str, instead: str = "") -> Finding:
        return Finding(
            code=DAMAGED,
            severity=Severity.ERROR,
            title=title,
            evidence=(str(path),),
            commands=(command,),
            instead=(instead,) if instead else (),
            subject=str(path.relative_to(self.layout.manifests)),
        )

    def _spoilt(self, blobs: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
        """`blobs`: digest -> the models that need it."""
        for digest, models in sorted(blobs.items()):
            path = self.layout.blob(digest)
            if f"sha256:{sha256_of(path)}" != digest:
                yield Finding(
                    code=DAMAGED,
                    severity=Severity.ERROR,
                    title=f"blobs/{path.name[:19]}… is not what its name says",
                    evidence=(str(path),),
                    commands=(_gone(path), *(f"ollmlx pull {model}" for model in dict.fromkeys(models))),
                    subject=path.name,
                )


def _gone(path: Path) -> str:
    return f"rm {shlex.quote(str(path))}"


def _full_name(path: Path) -> str:
    host, namespace, model, tag = path.parts[-4:]
    return f"{host}/{namespace}/{model}:{tag}"


def _twice(models: Sequence[InstalledModel]) -> Iterator[Finding]:
    """Manifests that make one name here: the second cannot be asked for."""
    by_name: dict[str, list[InstalledModel]] = defaultdict(list)
    for model in models:
        by_name[model.name.key].append(model)
    for same in by_name.values():
        if len(same) > 1:
            yield Finding(
                code=TWICE,
                severity=Severity.WARNING,
                title=f"{len(same)} models are called {same[0].name.short}",
                evidence=tuple(model.source for model in same),
                commands=(f"ollmlx cp {_place(same[1])} {_second(same[1])}", f"ollmlx rm {_place(same[1])}"),
                subject=same[0].name.short,
            )


def _second(model: InstalledModel) -> str:
    name, colon, tag = model.name.short.partition(":")
    return f"{name}-2{colon}{tag}"


def _place(model: InstalledModel) -> str:
    return model.source.partition(":")[2]
