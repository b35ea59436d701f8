"""Where daemon and runner meet: unix sockets in a private folder, bound by the daemon and inherited by the child."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from ollmlx.errors import StorageError

MAX_PATH = 100  # macOS has room for 103 bytes, Linux for 107
BACKLOG = 1024
_NAME = len("/00000000.sock")


class SocketDir:
    """A folder (0700) for sockets. Short enough for every platform: the state folder's `run`, else one below /tmp."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, state: Path, fallback: Path = Path("/tmp")) -> SocketDir:  # noqa: S108 - mkdtemp makes it private
        """Make the folder. A state folder whose path is too long, or on a file system without sockets, is not used.

        Raises StorageError when neither place works.
        """
        preferred = state / "run"
        try:
            _private(preferred)
            found = cls(preferred)
            found._try()
        except OSError:
            try:
                found = cls(Path(tempfile.mkdtemp(prefix="ollmlx-", dir=fallback)))
                found._try()
            except OSError as error:
                raise StorageError(f"cannot make a folder for sockets: {error}", code="STO009") from error
        return found

    def listen(self) -> tuple[socket.socket, Path]:
        """A new listening socket and its path. The caller closes the socket as soon as the child has it."""
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

    def remove(self) -> None:
        """Delete the folder and what is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _try(self) -> None:
        if len(os.fsencode(self.folder)) + _NAME > MAX_PATH:
            raise OSError("path too long for a socket")
        listener, path = self.listen()
        listener.close()
        path.unlink()


def _private(folder: Path) -> None:
    """Make the folder ours alone, emptying one that an earlier daemon left. Raises OSError for somebody else's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise OSError(f"{folder} is not a folder of ours")
    folder.chmod(0o700)
    for stale in folder.glob("*.sock"):
        with suppress(OSError):
            stale.unlink()
