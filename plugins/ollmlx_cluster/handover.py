"""The unix socket between the launcher and rank 0: it passes the listening socket and the configuration.

The socket is in a private folder and accepts one connection.
"""

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
"""Rank 0's line that asks the launcher to wake the other ranks."""
_PATIENCE: Final = 30.0


class LauncherSocket:
    """The launcher's side: sends rank 0 the listening socket and the configuration, then reads its lines."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="olx-", dir="/tmp")
        self.path = Path(self._folder.name) / "r"
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.path))
        self.socket.listen(1)
        self._partial = b""

    def send_work(self, connection: socket.socket, config: RunnerConfig, listening: int) -> None:
        """Send the configuration and the descriptor of the listening socket."""
        connection.settimeout(_PATIENCE)
        raw = config.model_dump_json().encode()
        socket.send_fds(connection, [struct.pack("<Q", len(raw))], [listening])
        connection.sendall(raw)

    def read_lines(self, connection: socket.socket) -> list[str]:
        """Return the whole lines that have arrived. Raises ConnectionError when rank 0 has closed its end."""
        data = connection.recv(4096)
        if not data:
            raise ConnectionError("rank 0 has ended")
        *lines, self._partial = (self._partial + data).split(b"\n")
        return [line.decode("ascii", "replace") for line in lines]

    def close(self) -> None:
        """Close the socket and remove its folder."""
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
        """Return the configuration and the descriptor of the listening socket."""
        head, fds, _, _ = socket.recv_fds(self._socket, 8, 1)
        (length,) = struct.unpack("<Q", head)
        if length > MAX_CONFIG or len(fds) != 1:
            raise ConnectionError("the launcher sent an unreadable message")
        pieces = bytearray()
        while len(pieces) < length:
            piece = self._socket.recv(min(1 << 20, length - len(pieces)))
            if not piece:
                raise ConnectionError("the launcher has ended")
            pieces += piece
        os.set_inheritable(fds[0], False)
        return RunnerConfig.model_validate_json(bytes(pieces)), fds[0]

    def send(self, line: str) -> None:
        """Send one line to the launcher."""
        self._socket.sendall(line.encode("ascii") + b"\n")
