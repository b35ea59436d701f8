"""Files of a running daemon in its state folder: its lock, its runners' sockets, and a record of each runner."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import secrets
import shutil
import socket
import stat
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from ollmlx.errors import Conflict, StorageError
from ollmlx.settings.files import private_file
from ollmlx.supervisor.process.guardian import boot_id, end_groups, process_start

logger = logging.getLogger(__name__)
MAX_PATH = 100  # bytes of a socket's path; macOS has room for 103, Linux for 107
BACKLOG = 1024
TEMPORARY = ".tmp"
_SOCKET_NAME = len("/00000000.tmp/l-00000000/s.sock")
"""The longest name below the folder: an engine's own socket, in the runner's folder for temporary files."""
NONCE = "OLLMLX_RUNNER_NONCE"
"""An environment variable of every runner: it tells a runner apart from a program under a reused process id."""


class InstanceLock:
    """A lock that allows one daemon for each state folder. The kernel releases it when the process ends.

    The file stays on disk; only the lock on it says that a daemon runs.
    """

    def __init__(self, state: Path) -> None:
        self._path = state / "ollmlx.lock"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises Conflict with the other daemon's process id, StorageError for an unusable folder."""
        fd = os.open(private_file(self._path.parent, self._path.name), os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise Conflict(
                f"ollmlx is already running (pid {owner}) with the state folder {self._path.parent}",
                code="NET002",
                hint="end it (ollmlx serve --stop), or give this one another folder: [storage] state",
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
        self._fd = fd

    def release(self) -> None:
        """Release the lock, so that the next daemon can start."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None


def lock_owner(state: Path) -> int | None:
    """Return the process id of the daemon that has this state folder; None without one."""
    try:
        with (state / "ollmlx.lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(file.read(32))
    except (OSError, ValueError):
        return None
    return None


class SocketDir:
    """A private folder (0700) with the unix sockets that the daemon binds and the runners inherit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, state: Path, fallback: Path = Path("/tmp")) -> SocketDir:  # noqa: S108 - mkdtemp makes it private
        """Make the folder `run` in the state folder, or one in `fallback`.

        The fallback is used when the path is too long for a socket, or when the file system has no sockets. Raises
        StorageError when neither folder works.
        """
        preferred = state / "run"
        try:
            _make_private(preferred)
            found = cls(preferred)
            found._check()
        except OSError:
            try:
                found = cls(Path(tempfile.mkdtemp(prefix="ollmlx-", dir=fallback)))
                found._check()
            except OSError as error:
                raise StorageError(f"cannot make a folder for sockets: {error}", code="STO002") from error
        return found

    def listen(self) -> tuple[socket.socket, Path]:
        """Return a new listening socket and its path. The caller closes the socket once the child has inherited it."""
        path = self.folder / f"{secrets.token_hex(4)}.sock"
        if len(os.fsencode(path)) > MAX_PATH:
            raise OSError(f"socket path too long: {path}")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(os.fspath(path))
            path.chmod(0o600)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            path.unlink(missing_ok=True)
            raise
        return listener, path

    def temporary(self, socket_path: Path) -> Path:
        """Make a private folder for the temporary files of the runner that has this socket."""
        folder = socket_path.with_suffix(TEMPORARY)
        folder.mkdir(mode=0o700)
        return folder

    def remove(self) -> None:
        """Delete the folder and the sockets in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _check(self) -> None:
        if len(os.fsencode(self.folder)) + _SOCKET_NAME > MAX_PATH:
            raise OSError("path too long for a socket")
        listener, path = self.listen()
        listener.close()
        path.unlink()


@dataclass(frozen=True, slots=True)
class RunnerRecord:
    """The identity of a runner's process. Its process id is also its group."""

    runner: str
    pid: int
    started: str
    boot: str
    nonce: str

    def is_running(self) -> bool:
        """Compare boot, process id, start time and nonce with the process that has the id now. In doubt: False."""
        if self.boot != boot_id() or self.started != process_start(self.pid):
            return False
        try:
            return psutil.Process(self.pid).environ().get(NONCE) == self.nonce
        except psutil.Error:
            return False


class RunnerRecords:
    """The folder `runners` of the state folder, one file for each runner. Only the owner of the lock touches it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, record: RunnerRecord) -> None:
        """Write a record, whole or not at all."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        final = self._path(record.pid)
        staged = final.with_suffix(".part")
        staged.touch(mode=0o600)
        staged.write_text(json.dumps(asdict(record)), encoding="utf-8")
        staged.replace(final)

    def remove(self, pid: int) -> None:
        """Delete the record of a runner that has been reaped."""
        self._path(pid).unlink(missing_ok=True)

    async def end_orphans(self) -> int:
        """End every recorded runner that still runs, and delete all records. Returns how many runners were ended."""
        running = [record for record in self._read() if record.is_running()]
        for record in running:
            logger.warning("ending %s (process %d), left by an earlier daemon", record.runner, record.pid)
        await asyncio.to_thread(end_groups, {record.pid: record.started for record in running}, process_start)
        for file in [*self._folder.glob("*.json"), *self._folder.glob("*.part")]:
            file.unlink(missing_ok=True)
        return len(running)

    def _path(self, pid: int) -> Path:
        return self._folder / f"{pid}.json"

    def _read(self) -> list[RunnerRecord]:
        found = []
        for file in sorted(self._folder.glob("*.json")):
            try:
                found.append(RunnerRecord(**json.loads(file.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError) as error:
                logger.warning("unreadable runner record %s: %s", file, error)
        return found


def _make_private(folder: Path) -> None:
    """Make the folder, and remove sockets of an earlier daemon. Raises OSError when another user owns it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OSError(f"{folder} is not a folder of this user")
    folder.chmod(0o700)
    for stale in folder.glob("*.sock"):
        with suppress(OSError):
            stale.unlink()
    for stale in folder.glob(f"*{TEMPORARY}"):
        shutil.rmtree(stale, ignore_errors=True)
