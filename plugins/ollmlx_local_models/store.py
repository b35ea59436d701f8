"""The store of models that other programs keep. It reads their files in place, and never writes to their folders."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import NoReturn

from ollmlx import Importer, ModelName, Source
from ollmlx.errors import Conflict, NotFound, Unsupported
from ollmlx.types import CreateRequest, InstalledModel, PullProgress
from ollmlx_local_models.folders import Candidate, Folder
from ollmlx_local_models.index import LocalIndex

PREFERRED_TAGS = ("Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q8_0")
"""The quantisations that `ORG/NAME` without a tag means, the first that is there; the order of Ollama's pulls."""


class LocalStore:
    """Models in the folders of Hugging Face, LM Studio, llama.cpp, and in those of the settings."""

    name = "local"
    read_only = True

    def __init__(self, folders: Sequence[Folder]) -> None:
        self._folders = folders
        self._index = LocalIndex(self.name)

    async def list(self) -> Sequence[InstalledModel]:
        """List every complete model that holds text. Partial downloads and models of other kinds are not listed."""
        return await asyncio.to_thread(self._models)

    def _models(self) -> Sequence[InstalledModel]:
        found: dict[ModelName, InstalledModel] = {}
        for folder in self._folders:
            for candidate in folder.all():
                if (model := self._index.reading(candidate).model) is not None:
                    found.setdefault(model.name, model)
        return list(found.values())

    async def resolve(self, name: ModelName) -> InstalledModel | None:
        """Return the model of a name, or None. A name without a tag means one of the repository's GGUF files, too."""
        return await asyncio.to_thread(self._find, name)

    def _find(self, name: ModelName) -> InstalledModel | None:
        found: dict[str, Candidate] = {}
        for candidate in self._of(name):
            found.setdefault(candidate.name.key, candidate)
        keys = [name.key]
        if name.tag == "latest":
            keys += [f"{name.key}@{tag.lower()}" for tag in PREFERRED_TAGS] + sorted(found)
        for key in keys:
            if key in found and (model := self._index.reading(found[key]).model) is not None:
                return model
        return None

    def _of(self, name: ModelName) -> Sequence[Candidate]:
        """Return the candidates of the repository that a name means, in any letter case."""
        if name.repo_id is None or name.host:
            return []
        org, _, repository = name.repo_id.partition("/")
        found = [candidate for folder in self._folders for candidate in folder.of(org, repository)]
        if found:
            return found
        wanted = name.repo_id.lower()
        every = itertools.chain.from_iterable(folder.all() for folder in self._folders)
        return [candidate for candidate in every if str(candidate.name.repo_id).lower() == wanted]

    def pull(
        self, name: ModelName, source: Source, importer: Importer | None, *, insecure: bool = False
    ) -> AsyncIterator[PullProgress]:
        """Raise Unsupported: no source pulls into other programs' folders."""
        self._refuse("pulls into")

    async def delete(self, name: ModelName) -> None:
        """Raise Conflict with the command of the program that the model belongs to, NotFound."""
        candidates = await asyncio.to_thread(self._of, name)
        if not candidates:
            raise NotFound(f"model '{name.short}' not found", code="MDL002")
        first = candidates[0]
        raise Conflict(f"{name.short} belongs to {first.origin}, which is only read", hint=first.removal)

    async def copy(self, model: InstalledModel, target: ModelName) -> None:
        """Raise Unsupported: a second name is made by `create`, in a store that can write."""
        self._refuse("writes to")

    def create(self, request: CreateRequest, importer: Importer | None) -> AsyncIterator[PullProgress]:
        """Raise Unsupported: another store makes the model."""
        self._refuse("creates models in")

    def _refuse(self, doing: str) -> NoReturn:
        raise Unsupported(f"nothing {doing} the folders of other programs", hint="ollmlx create NEW-NAME -f Modelfile")
