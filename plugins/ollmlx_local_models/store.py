"""The store of models that other programs keep. It reads their files in place, and never writes to their folders."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Hashable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NoReturn

from ollmlx import Importer, ModelName, OllmlxError, Source, read_gguf_header
from ollmlx.errors import Conflict, NotFound, Unsupported
from ollmlx.storekit import (
    LONGEST_ARRAY,
    FoundFile,
    ModelDescription,
    ModelIndex,
    damaged,
    describe_folder,
    describe_gguf,
    folder_state,
    gguf_parts,
    list_files,
    read_json,
    require_inside,
    storage_error,
)
from ollmlx.types import CreateRequest, InstalledModel, PullProgress
from ollmlx_local_models.folders import Candidate, Folder


class LocalIndex(ModelIndex[Candidate, None]):
    """Reads candidates, each once for as long as its files do not change."""

    def __init__(self, store: str) -> None:
        super().__init__()
        self.store = store

    def read_manifest(self, key: Candidate) -> None:
        """Return None: other programs' folders have no manifest of ours."""

    def read_state(self, key: Candidate, manifest: None) -> Hashable:
        """Return inode, size and time of every file. Where links lead is checked when the model is read."""
        if key.path.is_dir():
            return folder_state(key.path)
        found = [path.stat() for path in (*gguf_parts(key.path), *([key.projector] if key.projector else []))]
        return tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in found)

    def read_model(self, key: Candidate, manifest: None) -> InstalledModel:
        """Read a model. Raises StorageError if it is not complete, Unsupported if it is a model of another kind."""
        files = _files(key)
        described = _described_folder(key, files) if key.path.is_dir() else _described_gguf(key)
        facts = [[file.path, file.size, file.mtime_ns] for file in files]
        return InstalledModel(
            **vars(described),
            name=key.name,
            store=self.store,
            path=key.path,
            digest=hashlib.sha256(json.dumps([facts, described.capabilities]).encode()).hexdigest(),
            size=sum(file.size for file in files),
            modified_at=datetime.fromtimestamp(max(file.mtime_ns for file in files) / 1e9, UTC),
            source=f"{key.origin}: {key.path}",
        )

    def explain(self, key: Candidate, error: OllmlxError | OSError) -> OllmlxError:
        """Return the error as Unsupported, which is not logged: other programs' downloads may be incomplete."""
        known = storage_error(error, f"cannot read {key.name.short}") if isinstance(error, OSError) else error
        return Unsupported(known.message, code=known.code, hint=known.hint)


def _files(key: Candidate) -> list[FoundFile]:
    if key.path.is_dir():
        return list_files(key.path, key.bounds)
    files = []
    for path in (*gguf_parts(key.path), *([key.projector] if key.projector else [])):
        require_inside(path, path.name, key.bounds)
        status = path.stat()
        files.append(FoundFile(path.name, status.st_size, status.st_mtime_ns))
    return files


def _described_folder(key: Candidate, files: Sequence[FoundFile]) -> ModelDescription:
    weights = [file for file in files if not file.path.endswith(".gguf")]
    described = describe_folder(key.path, weights, str(key.name))
    architectures = (read_json(key.path, "config.json") or {}).get("architectures")
    names = map(str, architectures if isinstance(architectures, list) else ())
    writes_text = described.chat_template or any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
    if not writes_text and not {"embedding", "rerank", "transcription", "speech"} & {*described.capabilities}:
        raise Unsupported(f"{key.name.short} is not a language model")
    return described


def _described_gguf(key: Candidate) -> ModelDescription:
    headers = [read_gguf_header(path, longest=LONGEST_ARRAY) for path in gguf_parts(key.path)]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    header = replace(headers[0], tensors=tensors)
    if header.architecture in {"", "clip"}:
        raise damaged(f"{key.path.name} holds no language model")
    projectors = [read_gguf_header(key.projector, longest=LONGEST_ARRAY)] if key.projector else []
    described = describe_gguf(header, projectors=projectors)
    defaults = described.defaults.model_copy(update={"projector": key.projector} if key.projector else {})
    return replace(described, defaults=defaults)


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
