"""Where things lie in Ollama's store. Every path of this plugin is made here, from checked names and digests.

    <models>/manifests/<host>/<namespace>/<model>/<tag>   a manifest: what a name consists of
    <models>/blobs/sha256-<64 hex>                        a layer, named by its content
    <models>/.ollmlx/                                     ollmlx's own: pulls on their way in, locks. Made on demand

`<models>`, `manifests` and `blobs` may themselves be links, to another disk for example; below them a link may lead
anywhere inside these three, and nowhere else.
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

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
MAX_MANIFESTS = 10_000
_PLAIN_HOSTS = (DEFAULT_HOST, "ollama.com", "hf.co", "huggingface.co")
"""Hosts that are no part of a model's name, the one that wins first."""


@dataclass(frozen=True)
class Entry:
    """A manifest that was found: the name it stands for, and its file."""

    name: ModelName
    path: Path


class Layout:
    """The paths of one models folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifests = root / "manifests"
        self.blobs = root / "blobs"
        self._own = root / ".ollmlx"

    def blob(self, digest: str) -> Path:
        """Where a layer is or would be. Raises InvalidRequest for anything but a sha256 digest."""
        return self.blobs / f"sha256-{parse_digest(digest)}"

    def staging(self, name: ModelName) -> Path:
        return self._own / "staging" / name.key

    def lock(self, name: ModelName) -> Path:
        return self._own / "locks" / f"{name.key}.lock"

    @property
    def store_lock(self) -> Path:
        """Held while manifests change: what nothing refers to any more is found by looking at all of them."""
        return self._own / "locks" / ".store.lock"

    def target(self, name: ModelName) -> Path:
        """The file of a name's manifest, as Ollama would call it."""
        host = name.host or (name.via if name.via in ("hf.co", "huggingface.co") else None) or DEFAULT_HOST
        return self.manifests / host / (name.org or DEFAULT_NAMESPACE) / name.name / name.tag

    def entries(self) -> list[Entry]:
        """Every manifest whose path is a model's name. Of two that make one name, the one that wins comes first."""
        return [found for found in map(self._entry, self.files()) if found is not None]

    def files(self) -> list[Path]:
        """Every file where manifests are, `manifests/<host>/<namespace>/<model>/<tag>`."""
        found: list[Path] = []
        for host in sorted(_folders(self.manifests), key=_precedence):
            for namespace in _folders(host):
                for model in _folders(namespace):
                    found += [path for path in _listed(model) if not path.is_dir()]
        return found[:MAX_MANIFESTS]

    def find(self, name: ModelName) -> Entry | None:
        """The manifest of a name: as it was typed if there is one, else one that means the same."""
        exact = self.target(name)
        if exact.is_file() and (entry := self._entry(exact)) is not None and entry.name == name:
            return entry
        same = [entry for entry in self.entries() if entry.name == name]
        return next((entry for entry in same if entry.name.same_spelling(name)), same[0] if same else None)

    def status(self, path: Path) -> os.stat_result:
        """A file's status. Raises StorageError when it is missing, no regular file, or really lies elsewhere."""
        shown = path.relative_to(self.root)
        try:
            found = path.stat()
            self._inside(path, str(shown))
        except FileNotFoundError as error:
            raise StorageError(f"{shown} is missing", code="MDL003") from error
        except OSError as error:
            raise StorageError(f"{shown}: {error.strerror}", code="MDL003") from error
        if not stat.S_ISREG(found.st_mode):
            raise StorageError(f"{shown} is not a regular file", code="MDL003")
        return found

    def read(self, path: Path, cap: int) -> bytes:
        """A small file's content. Raises StorageError; `cap` in bytes."""
        if self.status(path).st_size > cap:
            raise StorageError(f"{path.relative_to(self.root)} is too large", code="MDL003")
        try:
            with path.open("rb") as file:
                return file.read(cap)
        except OSError as error:
            raise StorageError(f"{path.relative_to(self.root)}: {error.strerror}", code="MDL003") from error

    def remove_empty(self, folder: Path) -> None:
        """Remove a folder and those above it, as far as they are empty, up to `manifests`."""
        with suppress(OSError):  # it is not empty, or another daemon was first
            while folder != self.manifests:
                folder.rmdir()
                folder = folder.parent

    def _entry(self, path: Path) -> Entry | None:
        host, namespace, model, tag = path.relative_to(self.manifests).parts
        try:
            return Entry(ModelName.parse(f"{host}/{namespace}/{model}:{tag}"), path)
        except OllmlxError:
            return None

    def _inside(self, path: Path, shown: str) -> None:
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(os.path.realpath(top)) for top in (self.root, self.manifests, self.blobs)):
            raise StorageError(
                f"{shown} leads out of the models folder", code="MDL003", hint="copy the file instead of linking it"
            )


def _precedence(host: Path) -> tuple[int, str]:
    known = _PLAIN_HOSTS.index(host.name) if host.name in _PLAIN_HOSTS else len(_PLAIN_HOSTS)
    return known, host.name


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in _listed(folder) if path.is_dir())


def _listed(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if not entry.name.startswith("."))
    except OSError:  # not there, no folder, not ours to read
        return []
