"""The index of other programs' models: each is read once for as long as its files do not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ollmlx import OllmlxError, read_gguf_header
from ollmlx.errors import Unsupported
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
from ollmlx.types import InstalledModel
from ollmlx_local_models.folders import Candidate


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
