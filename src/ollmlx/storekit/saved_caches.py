"""Saved prompt caches: a private folder for each model, in the state folder. They hold prompts as token ids.

The runner writes the files; the daemon and the command `ollmlx cache` list and remove them.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ollmlx.errors import InvalidRequest, StorageError
from ollmlx.model.installed import InstalledModel
from ollmlx.model.names import ModelName
from ollmlx.storekit.files import storage_errors


@dataclass(frozen=True, slots=True)
class SavedCache:
    """The saved caches of one model. `model`: the name as typed; `used`: last write or read (epoch)."""

    model: str
    folder: Path
    files: int
    size: int
    used: float


class SavedCaches:
    """The folder with the saved caches of all models."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, model: InstalledModel) -> Path:
        """Return the folder of a model: its name, and the digest of its files."""
        return self._folder / f"{model.name.folder}+{model.digest[:16]}"

    def key(self) -> str:
        """Return the key that encrypts the caches, in hexadecimal; made when first needed. Raises StorageError."""
        file = self._folder.parent / "caches.key"
        with storage_errors("cannot use the key of saved prompt caches"):
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+", encoding="ascii", errors="replace") as opened:
                key = opened.read().strip()
                if not key:
                    key = secrets.token_hex(32)
                    opened.write(key)
        if not re.fullmatch("[0-9a-f]{64}", key):
            raise StorageError(f"{file} holds no key", hint=f"mv {shlex.quote(str(file))} {shlex.quote(f'{file}.old')}")
        return key

    def list(self) -> list[SavedCache]:
        """Return what is saved, the largest first. Raises StorageError for a folder that cannot be read."""
        with storage_errors("cannot list saved prompt caches"):
            folders = list(self._folder.iterdir()) if self._folder.is_dir() else []
            found = []
            for folder in folders:
                states = [file.stat() for file in folder.rglob("*.safetensors")]
                used = max((state.st_mtime for state in states), default=0.0)
                size = sum(state.st_size for state in states)
                found.append(SavedCache(_model_of(folder), folder, len(states), size, used))
        return sorted(found, key=lambda cache: -cache.size)

    def remove(self, names: Iterable[ModelName] | None = None, digest: str = "-") -> int:
        """Remove the caches of these models, or of all; return the bytes that were freed. Raises StorageError."""
        wanted = None if names is None else {name.key for name in names}
        freed = 0
        for cache in self.list():
            if wanted is None or _stem(cache.folder).lower() in wanted or cache.folder.name.endswith(f"+{digest[:16]}"):
                with storage_errors("cannot remove saved prompt caches"):
                    shutil.rmtree(cache.folder)
                freed += cache.size
        return freed

    def prune(self, limit: int) -> int:
        """Remove the files that were not used for the longest time until the rest fits; return how many."""
        files = [file for folder in (self._folder,) if folder.is_dir() for file in folder.rglob("*.safetensors")]
        removed = held = 0
        for file in sorted(files, key=lambda file: -file.stat().st_mtime):
            held += file.stat().st_size
            if held > limit:
                file.unlink(missing_ok=True)
                removed += 1
        return removed


def _stem(folder: Path) -> str:
    """Return the folder of the model's name, without the digest."""
    return folder.name.rpartition("+")[0] or folder.name


def _model_of(folder: Path) -> str:
    try:
        return ModelName.from_folder(_stem(folder)).short
    except InvalidRequest:  # a folder that no ollmlx made
        return folder.name
