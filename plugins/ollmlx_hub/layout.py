"""Where things lie in the store's folder, and what may lie there.

    <models>/mlx/<folder>/            one installed model; `ollmlx.json` is its manifest
    <models>/mlx/.staging/<key>/      a model on its way in; resumed by the next pull
    <models>/mlx/.swap/<folder>       the old content of a folder while the new one is renamed into place
    <models>/mlx/.trash/              deleted content on its way out
    <models>/mlx/.locks/<key>.lock    held while a model is pulled, made, copied or deleted

Names that start with a dot are never models.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ollmlx import ModelName, storage_error
from ollmlx.errors import StorageError

MANIFEST = "ollmlx.json"
MAX_FILES = 4096
MAX_DEPTH = 3


@dataclass(frozen=True, order=True)
class FoundFile:
    """A regular file of a model, relative to its folder with `/`; size in bytes."""

    path: str
    size: int
    mtime_ns: int


class Layout:
    """The paths of one store. `root` is `<models>/mlx`; links may lead anywhere inside `<models>` and nowhere else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bounds = root.parent

    def target(self, name: ModelName) -> Path:
        return self.root / name.folder

    def staging(self, name: ModelName) -> Path:
        return self.root / ".staging" / name.key

    def lock(self, name: ModelName) -> Path:
        return self.root / ".locks" / f"{name.key}.lock"

    def folders(self) -> list[Path]:
        """Every folder that may be a model. Raises StorageError when they cannot be looked at."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(
                    Path(entry.path) for entry in entries if not entry.name.startswith(".") and _folder(entry)
                )
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise storage_error(error, "cannot read the models folder") from error

    def find(self, name: ModelName) -> Path | None:
        """The folder of a name: its own spelling first, else one that differs in letter case only."""
        exact = self.target(name)
        if os.path.isdir(exact):  # noqa: PTH112 - Path.is_dir raises where the folder above may not be read
            return exact
        return next((folder for folder in self.folders() if folder.name.lower() == name.key), None)

    def files(self, folder: Path) -> list[FoundFile]:
        """A model's files. Raises StorageError for what must not be there: a link that leads outside, a device."""
        found = sorted(self._walk(folder, "", folder, 0))
        if len(found) > MAX_FILES:
            raise StorageError(f"{folder.name} holds more than {MAX_FILES} files", code="MDL003")
        return found

    def _walk(self, folder: Path, prefix: str, top: Path, depth: int) -> Iterator[FoundFile]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or (not prefix and entry.name == MANIFEST):
                    continue
                path = prefix + entry.name
                status = self._status(entry, f"{top.name}/{path}")
                if stat.S_ISDIR(status.st_mode):
                    if depth < MAX_DEPTH and not entry.is_symlink():
                        yield from self._walk(Path(entry.path), f"{path}/", top, depth + 1)
                elif stat.S_ISREG(status.st_mode):
                    yield FoundFile(path, status.st_size, status.st_mtime_ns)
                else:
                    raise StorageError(f"{top.name}/{path} is not a regular file", code="MDL003")

    def _status(self, entry: os.DirEntry[str], shown: str) -> os.stat_result:
        if entry.is_symlink():
            self.inside(Path(entry.path), shown)
        try:
            return entry.stat()
        except OSError as error:
            raise StorageError(f"{shown}: {error.strerror}", code="MDL003") from error

    def inside(self, path: Path, shown: str) -> None:
        """Raises StorageError when a path really lies outside the models folder."""
        try:
            real, bounds = Path(os.path.realpath(path, strict=True)), Path(os.path.realpath(self.bounds))
        except OSError as error:
            raise StorageError(f"{shown} is a broken link", code="MDL003") from error
        if not real.is_relative_to(bounds):
            raise StorageError(
                f"{shown} leads out of the models folder", code="MDL003", hint="copy the files instead of linking them"
            )

    def swap_in(self, new: Path, target: Path) -> None:
        """Rename a finished folder into place; what was there goes last. Call under the model's lock."""
        aside = self.root / ".swap" / target.name
        aside.parent.mkdir(exist_ok=True)
        self.recover(target)
        if not target.exists():
            new.rename(target)
            return
        target.rename(aside)
        new.rename(target)
        self.remove(aside)

    def is_cut(self, name: ModelName) -> bool:
        """Whether a crash took a model away in the middle of a swap."""
        return (self.root / ".swap" / name.folder).is_dir() and not self.target(name).exists()

    def recover(self, target: Path) -> None:
        """Undo or finish a swap that a crash cut in two. Call under the model's lock."""
        aside = self.root / ".swap" / target.name
        if not aside.exists():
            return
        if target.exists():
            self.remove(aside)
        else:
            aside.rename(target)

    def remove(self, folder: Path) -> None:
        """Delete a folder: out of sight first, then gone. Raises FileNotFoundError when it is not there."""
        trash = self.root / ".trash"
        trash.mkdir(parents=True, exist_ok=True)
        gone = trash / uuid.uuid4().hex
        folder.rename(gone)
        shutil.rmtree(gone)


def _folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def link(source: Path, target: Path) -> None:
    """Give a file a second name; a copy where the file system has no hard links. Replaces what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    real = Path(os.path.realpath(source))
    try:
        target.hardlink_to(real)
    except OSError:
        shutil.copy2(real, target)
