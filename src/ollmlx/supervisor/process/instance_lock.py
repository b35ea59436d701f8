"""One daemon for one state folder: a lock that the kernel releases, whatever ends its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ollmlx.errors import Conflict, StorageError


class InstanceLock:
    """Held for the daemon's life. The file stays; only the lock on it says that a daemon runs."""

    def __init__(self, state: Path) -> None:
        self._path = state / "ollmlx.lock"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises Conflict with the other daemon's process id, StorageError for an unusable folder."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                f"cannot use the state folder {self._path.parent}: {error.strerror}",
                code="STO009",
                hint="ollmlx doctor storage",
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise Conflict(
                f"ollmlx is already running (pid {holder}) with the state folder {self._path.parent}",
                code="NET002",
                hint="stop it, or give this one another folder: [storage] state",
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        self._fd = fd

    def release(self) -> None:
        """Let the next daemon start."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None
