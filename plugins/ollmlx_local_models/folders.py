"""The folders in which other programs keep models, and how each of them lays out and names its models.

Hugging Face: `models--ORG--NAME/snapshots/REVISION/`, whose files are links into `models--ORG--NAME/blobs/`.
LM Studio: `ORG/NAME/`. llama.cpp, before it used the cache of Hugging Face: `ORG_NAME_FILE.gguf` in one folder, with a
`manifest=ORG=NAME=TAG.json` that says which file is which.
"""

from __future__ import annotations

import os
import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ollmlx import ModelName, OllmlxError
from ollmlx.storekit import read_json

MAX_MANIFEST = 1 << 20

_REVISION = re.compile(r"[0-9a-f]{40}")
_LATER_PART = re.compile(r"-(?!00001)\d{5}-of-\d{5}$")
_QUANTISATION = re.compile(r"(?:^|[-._])((?:UD-)?(?:I?Q\d\w*|TQ\d\w*|MXFP4\w*|BF16|F16|F32))(?=[-.]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Candidate:
    """Files that may be a model, as they were found; nothing is read yet.

    path: a folder of safetensors, or a GGUF file (the first part of a split one). bounds: the folder in which links of
    its files may lead. removal: the command of the program that the files belong to.
    """

    name: ModelName
    path: Path
    bounds: Path
    origin: str
    removal: str
    projector: Path | None = None


class Folder(ABC):
    """One folder of another program. A folder that does not exist, or cannot be read, holds no models."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def all(self) -> Iterator[Candidate]:
        """Yield every candidate."""

    @abstractmethod
    def of(self, org: str, name: str) -> Iterator[Candidate]:
        """Yield the candidates of one repository."""


class HuggingFaceCache(Folder):
    """The cache of `hf download`, transformers, mlx-lm and llama.cpp's `-hf`."""

    def all(self) -> Iterator[Candidate]:
        for folder in _listed(self.root):
            kind, _, repository = folder.name.partition("--")
            org, dashes, name = repository.partition("--")
            if kind == "models" and dashes:
                yield from self.of(org, name)

    def of(self, org: str, name: str) -> Iterator[Candidate]:
        repository = self.root / f"models--{org}--{name}"
        if (snapshot := _snapshot(repository)) is not None:
            removal = f"hf cache rm model/{org}/{name}"
            yield from candidates(
                snapshot, org, name, bounds=repository, origin="Hugging Face's cache", removal=removal
            )


class ModelTree(Folder):
    """A folder with `ORG/NAME/`, as LM Studio has it."""

    def __init__(self, root: Path, origin: str) -> None:
        super().__init__(root)
        self.origin = origin

    def all(self) -> Iterator[Candidate]:
        for org in _listed(self.root):
            for folder in _listed(org):
                yield from self.of(org.name, folder.name)

    def of(self, org: str, name: str) -> Iterator[Candidate]:
        folder = self.root / org / name
        if folder.is_dir():
            removal = f"rm -r {shlex.quote(str(folder))}"
            yield from candidates(folder, org, name, bounds=self.root, origin=self.origin, removal=removal)


class LlamaCppCache(Folder):
    """The cache of llama.cpp's `-hf` before March 2026."""

    def all(self) -> Iterator[Candidate]:
        for manifest in sorted(self.root.glob("manifest=*=*=*.json")) if self.root.is_dir() else ():
            org, name = manifest.name.split("=")[1:3]
            yield from self._read(manifest, org, name)

    def of(self, org: str, name: str) -> Iterator[Candidate]:
        for manifest in sorted(self.root.glob("manifest=*=*=*.json")) if self.root.is_dir() else ():
            if manifest.name.split("=")[1:3] == [org, name]:
                yield from self._read(manifest, org, name)

    def _read(self, manifest: Path, org: str, name: str) -> Iterator[Candidate]:
        tag = manifest.stem.split("=", 3)[3]
        try:
            described = read_json(self.root, manifest.name, MAX_MANIFEST) or {}
        except OllmlxError:
            return
        weights, projector = (self._file(described.get(key), org, name) for key in ("ggufFile", "mmprojFile"))
        if weights is not None and (model := _named(org, name, tag)) is not None:
            removal = f"rm {shlex.quote(str(weights))} {shlex.quote(str(manifest))}"
            yield Candidate(model, weights, self.root, "llama.cpp's cache", removal, projector)

    def _file(self, entry: object, org: str, name: str) -> Path | None:
        file = entry.get("rfilename") if isinstance(entry, dict) else None
        if not isinstance(file, str):
            return None
        path = self.root / f"{org}_{name}_{file}".replace("/", "_")
        return path if path.is_file() else None


def known_folders(environment: Mapping[str, str], platform: str, home: Path, more: Sequence[Path]) -> list[Folder]:
    """Return the folders of the programs that keep models, as their own variables name them, and `more`."""

    def folder(variable: str, default: Path) -> Path:
        return Path(environment[variable]).expanduser() if environment.get(variable) else default

    cache = folder("XDG_CACHE_HOME", home / ".cache")
    hub = folder("HF_HUB_CACHE", folder("HF_HOME", cache / "huggingface") / "hub")
    llama_cpp = home / "Library/Caches/llama.cpp" if platform == "darwin" else cache / "llama.cpp"
    return [
        HuggingFaceCache(hub),
        ModelTree(home / ".lmstudio/models", "LM Studio's folder"),
        ModelTree(home / ".cache/lm-studio/models", "LM Studio's folder"),
        LlamaCppCache(folder("LLAMA_CACHE", llama_cpp)),
        *(ModelTree(each.expanduser(), str(each)) for each in more),
    ]


def candidates(folder: Path, org: str, name: str, *, bounds: Path, origin: str, removal: str) -> Iterator[Candidate]:
    """Yield the models of a repository's folder: its safetensors as one, and each of its GGUF files.

    A GGUF file is named by its quantisation, `ORG/NAME:Q4_K_M`; a split file is one model; a projector is none.
    """
    if (folder / "config.json").is_file() and (model := _named(org, name)) is not None:
        yield Candidate(model, folder, bounds, origin, removal)
    files = sorted(_ggufs(folder))
    projector = next((path for path in files if is_projector(path)), None)
    for path in files:
        if is_projector(path) or _LATER_PART.search(path.stem):
            continue
        stem = path.stem.removesuffix("-00001-of-" + path.stem[-5:])
        quantisation = _QUANTISATION.findall(stem)
        if (model := _named(org, name, quantisation[-1].upper() if quantisation else stem)) is not None:
            yield Candidate(model, path, bounds, origin, removal, projector)


def _ggufs(folder: Path, *, depth: int = 1) -> Iterator[Path]:
    """Yield the GGUF files in a folder and in its folders; none of one that cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".gguf"):
                yield Path(entry.path)
            elif depth and entry.is_dir():
                yield from _ggufs(Path(entry.path), depth=depth - 1)


def is_projector(path: Path) -> bool:
    """Return True for the image encoder that lies beside a model's weights."""
    return "mmproj" in path.name.lower()


@lru_cache(maxsize=1 << 15)
def _named(org: str, name: str, tag: str = "") -> ModelName | None:
    """Return the name of a model, or None if the parts make none."""
    try:
        return ModelName.parse(f"{org}/{name}:{tag}" if tag else f"{org}/{name}")
    except OllmlxError:
        return None


def _snapshot(repository: Path) -> Path | None:
    """Return the folder of the revision that `main` means, or of the newest one."""
    try:
        revision = (repository / "refs/main").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        revision = ""
    if _REVISION.fullmatch(revision) and (repository / "snapshots" / revision).is_dir():
        return repository / "snapshots" / revision
    snapshots = _listed(repository / "snapshots")
    return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)


def _listed(folder: Path) -> list[Path]:
    """Return the folders in a folder; none if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            found = [Path(each.path) for each in entries if not each.name.startswith(".") and each.is_dir()]
    except OSError:
        return []
    return sorted(found, key=str)
