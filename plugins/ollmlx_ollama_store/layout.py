"""The files of Ollama's models folder. Every path of this plugin is made here, from checked names and digests.

    <models>/manifests/<host>/<namespace>/<model>/<tag>   the manifest of a model: its configuration and its layers
    <models>/blobs/sha256-<64 hex>                        a layer, named by its content
    <models>/.ollmlx/                                     ollmlx's own staging folders and locks, made on demand

`<models>`, `manifests` and `blobs` may themselves be links, to another disk for example. Below them a link may lead
anywhere inside these three folders, and nowhere else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ollmlx import ModelName, OllmlxError, parse_digest
from ollmlx.errors import StorageError
from ollmlx.storekit import read_bounded, require_inside

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
HUBS = ("hf.co", "huggingface.co")
MAX_MANIFESTS = 10_000
_PLAIN_HOSTS = (DEFAULT_HOST, "ollama.com", *HUBS)
"""Hosts that are not part of a model's name. Of two manifests with one name, the host listed first wins."""


@dataclass(frozen=True)
class ManifestEntry:
    """A manifest file and the model name of its path."""

    name: ModelName
    path: Path

    @property
    def full_name(self) -> str:
        """`host/namespace/model:tag`."""
        host, namespace, model, tag = self.path.parts[-4:]
        return f"{host}/{namespace}/{model}:{tag}"


class OllamaLayout:
    """The paths of one models folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifests = root / "manifests"
        self.blobs = root / "blobs"
        self._own = root / ".ollmlx"

    def blob(self, digest: str) -> Path:
        """The path of a layer. Raises InvalidRequest for anything but a sha256 digest."""
        return self.blobs / f"sha256-{parse_digest(digest)}"

    def staging(self, name: ModelName) -> Path:
        """The folder in which a model is prepared."""
        return self._own / "staging" / name.key

    def lock(self, name: ModelName) -> Path:
        """The lock file of a model."""
        return self._own / "locks" / f"{name.key}.lock"

    @property
    def store_lock(self) -> Path:
        """The lock file for changes of manifests. Unused layers are found by reading all manifests."""
        return self._own / "locks" / ".store.lock"

    def target(self, name: ModelName) -> Path:
        """The path that Ollama would give a name's manifest."""
        host = name.host or (name.via if name.via in HUBS else None) or DEFAULT_HOST
        return self.manifests / host / (name.org or DEFAULT_NAMESPACE) / name.name / name.tag

    def entries(self) -> list[ManifestEntry]:
        """Every manifest whose path is a model name. Of two with the same name, the one that wins comes first."""
        return [entry for entry in map(self._entry, self.manifest_files()) if entry is not None]

    def manifest_files(self) -> list[Path]:
        """Every file `manifests/<host>/<namespace>/<model>/<tag>`, whether its path is a model name or not."""
        found: list[Path] = []
        for host in sorted(_folders(self.manifests), key=_precedence):
            for namespace in _folders(host):
                for model in _folders(namespace):
                    found += [path for path in _listed(model) if not path.is_dir()]
        return found[:MAX_MANIFESTS]

    def find(self, name: ModelName) -> ManifestEntry | None:
        """The manifest of a name: the one at its own path, else the first one whose name is equal."""
        exact = self.target(name)
        if exact.is_file() and (entry := self._entry(exact)) is not None and entry.name == name:
            return entry
        same = [entry for entry in self.entries() if entry.name == name]
        return next((entry for entry in same if entry.name.same_spelling(name)), same[0] if same else None)

    def status(self, path: Path) -> os.stat_result:
        """The status of a regular file. Raises StorageError if it is missing, or a link leads out of the folder."""
        shown = path.relative_to(self.root)
        try:
            found = path.stat()
        except FileNotFoundError as error:
            raise damaged(f"{shown} is missing") from error
        except OSError as error:
            raise damaged(f"{shown}: {error.strerror}") from error
        require_inside(path, str(shown), self.root, self.manifests, self.blobs)
        if not stat.S_ISREG(found.st_mode):
            raise damaged(f"{shown} is not a regular file")
        return found

    def read(self, path: Path, limit: int) -> bytes:
        """The content of a file of at most `limit` bytes. Raises StorageError."""
        self.status(path)
        shown = str(path.relative_to(self.root))
        data = read_bounded(path, limit, shown)
        if data is None:
            raise damaged(f"{shown} is missing")
        return data

    def remove_empty(self, folder: Path) -> None:
        """Remove a folder and those above it, up to `manifests`, as long as they are empty."""
        with suppress(OSError):  # a folder is not empty, or another process removed it
            while folder != self.manifests:
                folder.rmdir()
                folder = folder.parent

    def _entry(self, path: Path) -> ManifestEntry | None:
        host, namespace, model, tag = path.relative_to(self.manifests).parts
        try:
            return ManifestEntry(ModelName.parse(f"{host}/{namespace}/{model}:{tag}"), path)
        except OllmlxError:
            return None


def _precedence(host: Path) -> tuple[int, str]:
    known = _PLAIN_HOSTS.index(host.name) if host.name in _PLAIN_HOSTS else len(_PLAIN_HOSTS)
    return known, host.name


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in _listed(folder) if path.is_dir())


def _listed(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if not entry.name.startswith("."))
    except OSError:  # it is missing, no folder, or not readable for this user
        return []
