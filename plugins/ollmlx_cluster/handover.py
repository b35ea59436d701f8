"""How rank 0 gets what the daemon gave the launcher: a unix socket in a private folder, and one visitor."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ollmlx.protocol import RunnerConfig

MAX_CONFIG: Final = 64 << 20
WAKING: Final = "wake"
"""What rank 0 says when the others have to wake."""
_PATIENCE: Final = 30.0


class LauncherSocket:
    """The launcher's side: waits for rank 0, hands over the listening socket and the configuration, hears the end."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="olx-", dir="/tmp")
        self.path = Path(self._folder.name) / "r"
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.path))
        self.socket.listen(1)
        self._heard = b""

    def hand_over(self, visitor: socket.socket, config: RunnerConfig, listening: int) -> None:
        """Give rank 0 its work."""
        visitor.settimeout(_PATIENCE)
        raw = config.model_dump_json().encode()
        socket.send_fds(visitor, [struct.pack("<Q", len(raw))], [listening])
        visitor.sendall(raw)

    def hear(self, visitor: socket.socket) -> list[str]:
        """Whole lines that rank 0 said since; raises ConnectionError when it is gone."""
        data = visitor.recv(4096)
        if not data:
            raise ConnectionError("rank 0 is gone")
        *lines, self._heard = (self._heard + data).split(b"\n")
        return [line.decode("ascii", "replace") for line in lines]

    def close(self) -> None:
        """Remove the folder."""
        self.socket.close()
        self._folder.cleanup()


class LauncherConnection:
    """Rank 0's side."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def receive(self) -> tuple[RunnerConfig, int]:
        """The configuration and the listening socket's descriptor."""
        head, fds, _, _ = socket.recv_fds(self._socket, 8, 1)
        (length,) = struct.unpack("<Q", head)
        if length > MAX_CONFIG or len(fds) != 1:
            raise ConnectionError("the launcher made no sense")
        pieces = bytearray()
        while len(pieces) < length:
            piece = self._socket.recv(min(1 << 20, length - len(pieces)))
            if not piece:
                raise ConnectionError("the launcher is gone")
            pieces += piece
        os.set_inheritable(fds[0], False)
        return RunnerConfig.model_validate_json(bytes(pieces)), fds[0]

    def say(self, line: str) -> None:
        """One line for the launcher."""
        self._socket.sendall(line.encode("ascii") + b"\n")
