"""The messages between the launcher and the ranks: work for rank 0, lines that show that both sides live.

Rank 0 gets the listening socket and the configuration through a unix socket, which is in a private folder and accepts
one connection. Once a second the launcher writes a line, which mlx.launch passes to every rank, and each rank writes
one back, through ssh where the rank is remote. Both sides end after a silence: no closed connection is needed to notice
a machine that is off, a cut network, or a process that hangs. The same line, with a space in it, wakes the ranks of an
idle group.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Final

from ollmlx.protocol import ExitCode, RunnerConfig

MAX_CONFIG: Final = 64 << 20
WAKING: Final = "wake"
"""Rank 0's line that asks the launcher to wake the other ranks."""
_PATIENCE: Final = 30.0
BEAT: Final = 1.0
LINE: Final = b"\n"
WAKE: Final = b" \n"
"""The launcher's two lines. A terminal of ssh echoes them: both are invisible."""
SILENCE: Final = 30.0
"""Seconds of silence after which the other side counts as lost."""
WITHOUT_INPUT: Final = frozenset({"mpi"})
"""Backends whose ranks, except the first, get no input from the launcher."""
_RANKS: Final = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_WOKEN: Final = threading.Event()
_SIGN: Final = re.compile(r"ollmlx rank (\d{1,5}) is alive\s*$")
SSH_FAILED: Final = 255
UNKNOWN: Final = 1
"""The status of Python after an exception, and of a rank whose status mpirun does not print."""
NOT_FOUND: Final = (126, 127)
_EXITED: Final = re.compile(r"\[WARN\] Node with rank (\d{1,5}) (?:exited with code (-?\d{1,5})|was killed)")
_MPI: Final = re.compile(r"prterun noticed that process rank (\d{1,5}) with PID \d+ on node \S+ exited")
_MESSAGE: Final = re.compile(r"rank (\d{1,5}): (.+)")
_CONSEQUENCES: Final = (ExitCode.INTERNAL, ExitCode.PARENT_GONE)
"""The statuses of a rank that ended because another one was lost: seldom the cause."""


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
        self.socket.close()
        self._folder.cleanup()


class LauncherConnection:
    """Rank 0's side. It is open as long as the process runs: its end tells the launcher that rank 0 has ended."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))

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
        self._socket.sendall(line.encode("ascii") + b"\n")


def start(silence: float, backend: str, environ: Mapping[str, str] = os.environ) -> None:
    """In a rank: write a line every second from now on, and end when the launcher's lines stop.

    The end of standard input ends this process at once. Silence ends it by the kernel's alarm, which also ends an
    interpreter that is stuck in native code. mpirun gives its input to rank 0 only, and ends the others itself.
    """
    rank = next((environ[name] for name in _RANKS if name in environ), "0")
    has_input = backend not in WITHOUT_INPUT or rank == "0"
    if has_input:
        signal.setitimer(signal.ITIMER_REAL, silence)
    sign = f"ollmlx rank {rank} is alive\n".encode()
    threading.Thread(target=_exchange_lines, args=(sign, silence, has_input), daemon=True).start()


def wait_until_woken() -> None:
    """In a rank other than the first: wait without computing until the launcher wakes the group."""
    _WOKEN.wait()
    _WOKEN.clear()


def _exchange_lines(sign: bytes, silence: float, has_input: bool) -> None:
    due = time.monotonic()
    try:
        while True:
            os.write(1, sign)
            due += BEAT
            while (left := due - time.monotonic()) > 0:
                if not select.select([0] if has_input else [], [], [], left)[0]:
                    break
                data = os.read(0, 4096)
                if not data:
                    os._exit(ExitCode.PARENT_GONE)
                signal.setitimer(signal.ITIMER_REAL, silence)
                if WAKE in data.replace(b"\r", b""):
                    _WOKEN.set()
    except OSError:  # ssh has hung up, or the launcher reads no more
        os._exit(ExitCode.PARENT_GONE)


class RankLiveness:
    """In the launcher: the time of each rank's last line. Pure; `now` is monotonic, in seconds."""

    def __init__(self, hosts: Sequence[str], silence: float, now: float) -> None:
        self._hosts = hosts
        self._silence = silence
        self._last = [now] * len(hosts)
        self._polled = now
        self.seen: set[int] = set()
        """Ranks that have written a line."""

    def note_line(self, line: str, now: float) -> bool:
        """Note a rank's line. Returns whether this line of output was one and nothing else."""
        found = _SIGN.search(line)
        if found is not None and int(found[1]) < len(self._last):
            self._last[int(found[1])] = now
            self.seen.add(int(found[1]))
        return found is not None and found.start() == 0

    def missing(self, now: float) -> str | None:
        """Return a message about a rank that is silent for too long. A gap in our own polling does not count."""
        if now - self._polled > self._silence / 2:
            self._last = [now] * len(self._last)
        self._polled = now
        for rank, last in enumerate(self._last):
            if now - last > self._silence:
                what = "has been silent for" if rank in self.seen else "did not start within"
                return f"rank {rank} on {self._hosts[rank]} {what} {self._silence:g} s"
        return None


class RankFailures:
    """Finds out from a group's output why it ended. `hosts`: the host of each rank. Pure."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._codes: dict[int, int] = {}
        self._messages: dict[int, str] = {}

    def note_line(self, line: str) -> bool:
        """Note a line of output. Returns whether it was mlx.launch's report of a rank's end."""
        exited = _EXITED.search(line)
        if exited is not None:
            rank, code = int(exited[1]), exited[2]
            if code is not None and rank < len(self._hosts):
                self._codes.setdefault(rank, int(code))
            return True
        if (ended := _MPI.match(line)) is not None and int(ended[1]) < len(self._hosts):
            self._codes.setdefault(int(ended[1]), UNKNOWN)
        message = _MESSAGE.match(line)
        if message is not None:
            self._messages[int(message[1])] = message[2]
        return False

    def verdict(self, seen: Container[int]) -> tuple[int, str] | None:
        """Return the exit code of the group and the reason, from the rank that most likely ended first.

        None when no rank ended by itself. `seen`: the ranks that had written a line.
        """
        order = sorted(self._codes.items(), key=lambda one: (one[1] in _CONSEQUENCES, one[0]))
        return self._meaning(*order[0], order[0][0] in seen) if order else None

    def _meaning(self, rank: int, code: int, seen: bool) -> tuple[int, str]:
        name = f"rank {rank} on {self._hosts[rank]}"
        if rank in self._messages:
            return code if code == ExitCode.BAD_MODEL else ExitCode.INTERNAL, f"{name}: {self._messages[rank]}"
        if code == SSH_FAILED and not seen:
            return ExitCode.INTERNAL, f"{name} could not be started with ssh; `ollmlx doctor --online` shows why"
        if code in NOT_FOUND:
            return (
                ExitCode.USAGE,
                f"{name} found no ollmlx at the path it has here; `ollmlx doctor --online` shows more",
            )
        return ExitCode.INTERNAL, f"{name} was lost" + (f" (exit status {code})" if code != UNKNOWN else "")
