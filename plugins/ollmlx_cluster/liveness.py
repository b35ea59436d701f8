"""How the launcher and the ranks notice that the other side is gone, on whatever machine it is.

Once a second the launcher writes a line, which mlx.launch passes to every rank, and each rank writes one back, through
ssh where the rank is remote. Both sides end after a silence: no closed connection is needed to notice a machine that is
off, a cut network, or a process that hangs. The same line, with a space in it, wakes the ranks of an idle group.
"""

from __future__ import annotations

import os
import re
import select
import signal
import threading
import time
from collections.abc import Container, Mapping, Sequence
from typing import Final

from ollmlx.protocol import ExitCode

BEAT: Final = 1.0
LINE: Final = b"\n"
WAKE: Final = b" \n"
"""The launcher's two lines. A terminal that ssh made echoes them, so neither shows."""
SILENCE: Final = 30.0
"""Seconds after which the other side counts as gone."""
DEAF: Final = frozenset({"mpi"})
"""Backends whose ranks, but for the first, hear nothing of the launcher."""
_RANKS: Final = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_AWAKE: Final = threading.Event()
_SIGN: Final = re.compile(r"ollmlx rank (\d{1,5}) is alive\s*$")


def live(silence: float, backend: str, environ: Mapping[str, str] = os.environ) -> None:
    """In a rank: write signs of life and end with the launcher's, from now on.

    The end of standard input ends this process at once. Silence ends it by the kernel's alarm: that also ends an
    interpreter that is stuck in native code. mpirun gives its input to rank 0 only, and ends the others itself.
    """
    rank = next((environ[name] for name in _RANKS if name in environ), "0")
    hears = backend not in DEAF or rank == "0"
    if hears:
        signal.setitimer(signal.ITIMER_REAL, silence)
    sign = f"ollmlx rank {rank} is alive\n".encode()
    threading.Thread(target=_live, args=(sign, silence, hears), daemon=True).start()


def sleep() -> None:
    """In a rank other than the first: wait, at no cost, until the group is woken. Once for each time it is."""
    _AWAKE.wait()
    _AWAKE.clear()


def _live(sign: bytes, silence: float, hears: bool) -> None:
    due = time.monotonic()
    try:
        while True:
            os.write(1, sign)
            due += BEAT
            while (left := due - time.monotonic()) > 0:
                if not select.select([0] if hears else [], [], [], left)[0]:
                    break
                heard = os.read(0, 4096)
                if not heard:
                    os._exit(ExitCode.PARENT_GONE)
                signal.setitimer(signal.ITIMER_REAL, silence)
                if WAKE in heard.replace(b"\r", b""):
                    _AWAKE.set()
    except OSError:  # the terminal that ssh made has hung up, or nobody reads
        os._exit(ExitCode.PARENT_GONE)


class RankLiveness:
    """In the launcher: when each rank was last heard. Pure; `now` is monotonic, in seconds."""

    def __init__(self, hosts: Sequence[str], silence: float, now: float) -> None:
        self._hosts = hosts
        self._silence = silence
        self._heard = [now] * len(hosts)
        self._looked = now
        self.seen: set[int] = set()
        """Ranks that have shown a sign of life."""

    def hear(self, line: str, now: float) -> bool:
        """Whether this line of output was a sign of life and nothing else."""
        found = _SIGN.search(line)
        if found is not None and int(found[1]) < len(self._heard):
            self._heard[int(found[1])] = now
            self.seen.add(int(found[1]))
        return found is not None and found.start() == 0

    def missing(self, now: float) -> str | None:
        """What to say of the first rank that is silent for too long. Our own sleep is nobody's silence."""
        if now - self._looked > self._silence / 2:
            self._heard = [now] * len(self._heard)
        self._looked = now
        for rank, heard in enumerate(self._heard):
            if now - heard > self._silence:
                what = "has not been heard of for" if rank in self.seen else "did not start within"
                return f"rank {rank} on {self._hosts[rank]} {what} {self._silence:g} s"
        return None


SSH_FAILED: Final = 255
UNKNOWN: Final = 1
"""What mpirun does not say in one line, and what Python ends with after an exception."""
NOT_FOUND: Final = (126, 127)
_EXITED: Final = re.compile(r"\[WARN\] Node with rank (\d{1,5}) (?:exited with code (-?\d{1,5})|was killed)")
_MPI: Final = re.compile(r"prterun noticed that process rank (\d{1,5}) with PID \d+ on node \S+ exited")
_WORDS: Final = re.compile(r"rank (\d{1,5}): (.+)")
_CURABLE: Final = (ExitCode.INTERNAL, ExitCode.PARENT_GONE)
"""With these a rank ends when another one is lost: seldom the cause."""


class RankFailures:
    """Takes the output of a group, line by line. `hosts`: the host of each rank."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._codes: dict[int, int] = {}
        self._words: dict[int, str] = {}

    def hear(self, line: str) -> bool:
        """Whether it was mlx.launch telling of a rank's end. A rank's own words are only remembered."""
        exited = _EXITED.search(line)
        if exited is not None:
            rank, code = int(exited[1]), exited[2]
            if code is not None and rank < len(self._hosts):
                self._codes.setdefault(rank, int(code))
            return True
        if (ended := _MPI.match(line)) is not None and int(ended[1]) < len(self._hosts):
            self._codes.setdefault(int(ended[1]), UNKNOWN)
        said = _WORDS.match(line)
        if said is not None:
            self._words[int(said[1])] = said[2]
        return False

    def verdict(self, seen: Container[int]) -> tuple[int, str] | None:
        """The exit code of the group and why, by the rank that most likely was the first to go; None: no rank was.

        `seen`: the ranks that had shown a sign of life.
        """
        order = sorted(self._codes.items(), key=lambda one: (one[1] in _CURABLE, one[0]))
        return self._meaning(*order[0], order[0][0] in seen) if order else None

    def _meaning(self, rank: int, code: int, seen: bool) -> tuple[int, str]:
        who = f"rank {rank} on {self._hosts[rank]}"
        if rank in self._words:
            return code if code == ExitCode.BAD_MODEL else ExitCode.INTERNAL, f"{who}: {self._words[rank]}"
        if code == SSH_FAILED and not seen:
            return ExitCode.INTERNAL, f"{who} could not be started with ssh; `ollmlx doctor --online` says why"
        if code in NOT_FOUND:
            return ExitCode.USAGE, f"{who} found no ollmlx at the path it has here; `ollmlx doctor --online` says more"
        return ExitCode.INTERNAL, f"{who} was lost" + (f" (exit status {code})" if code != UNKNOWN else "")
