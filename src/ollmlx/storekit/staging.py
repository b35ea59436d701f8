"""Changing models: one change at a time under a lock file, in a staging folder, renamed into place when it is whole."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ollmlx.errors import StorageError
from ollmlx.model.installed import CreateRequest, ModelDefaults
from ollmlx.model.names import ModelName
from ollmlx.storekit.files import storage_errors, sync_folder, sync_tree
from ollmlx.storekit.threads import to_transfer_thread

POLL = 0.1
"""Seconds between two attempts to take a lock."""


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold a lock file during the block. Waits while another task or process holds it; the wait can be cancelled.

    Raises StorageError for whatever the file system refuses, also in the block.
    """
    lock = FileLock(path, thread_local=False)
    with storage_errors("cannot write to the models folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        while not lock.is_locked:
            try:
                lock.acquire(blocking=False)
            except Timeout:  # a subclass of OSError
                await asyncio.sleep(POLL)
    try:
        with storage_errors("cannot write to the models folder"):
            yield
    finally:
        lock.release()


async def discard(*folders: Path) -> None:
    """Remove staging folders, and ignore those that are gone."""
    for folder in folders:
        await to_transfer_thread(shutil.rmtree, folder, ignore_errors=True)


@dataclass(frozen=True)
class StagingArea:
    """The folders beside a store's models in which changes are prepared. Their names begin with a dot.

        <root>/.staging/<key>/      a model that is being pulled or created; the next pull resumes it
        <root>/.swap/<folder>       the old content of a folder while the new content is renamed into place
        <root>/.trash/              deleted content that is being removed
        <root>/.locks/<key>.lock    held while a model is pulled, created, copied or deleted

    The methods change files: call them in a thread, under the model's lock.
    """

    root: Path

    def folder(self, name: ModelName) -> Path:
        """The staging folder of a model."""
        return self.root / ".staging" / name.key

    def lock(self, name: ModelName) -> Path:
        """The lock file of a model."""
        return self.root / ".locks" / f"{name.key}.lock"

    def swap_in(self, new: Path, target: Path) -> None:
        """Rename a finished folder to `target`, once it is on the disk. The folder that was there is removed last."""
        sync_tree(new)
        self.recover(target)
        aside = self._aside(target)
        aside.parent.mkdir(exist_ok=True)
        if target.exists():
            target.rename(aside)
        new.rename(target)
        sync_folder(target.parent)
        self.recover(target)

    def is_interrupted(self, target: Path) -> bool:
        """Return True if a crash during `swap_in` left no folder at `target`."""
        return self._aside(target).is_dir() and not target.exists()

    def recover(self, target: Path) -> None:
        """Finish a swap that a crash interrupted: put the old folder back, or remove it if the new one is there."""
        if self.is_interrupted(target):
            self._aside(target).rename(target)
        elif self._aside(target).exists():
            self.remove(self._aside(target))

    def remove(self, folder: Path) -> None:
        """Delete a folder: rename it into the trash, then remove its files. Raises FileNotFoundError."""
        trash = self.root / ".trash"
        trash.mkdir(parents=True, exist_ok=True)
        gone = trash / uuid.uuid4().hex
        folder.rename(gone)
        shutil.rmtree(gone)

    def _aside(self, target: Path) -> Path:
        return self.root / ".swap" / target.name


def only_file(folder: Path, format: str) -> Path:
    """Return the one file `*.<format>` that a source left in a folder. Raises StorageError if there is not one."""
    found = sorted(path for path in folder.glob(f"*.{format}") if path.is_file() and not path.name.startswith("."))
    if len(found) != 1:
        raise StorageError(f"the source left {len(found)} .{format} files where one was expected")
    return found[0]


def merged_defaults(request: CreateRequest) -> ModelDefaults:
    """Return the defaults that a request states; where it states nothing, those of its base."""
    stated, base = request.defaults, request.base.defaults if request.base else ModelDefaults()
    fields: dict[str, object] = {"options": stated.options.over(base.options)}
    for field in ("system", "template", "messages", "license", "adapter", "draft"):
        value = getattr(stated, field) or getattr(base, field)
        if value:
            fields[field] = value
    return ModelDefaults.model_validate(fields)
