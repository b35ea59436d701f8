"""How the launcher and the ranks know of one another that they live, on whatever machine they are.

Once a second the launcher writes a line that mlx.launch hands on to every rank, and each rank writes one back, through
ssh where the rank is remote. Both sides end a silence: no closed connection is needed to notice a machine that is off,
a network that is cut, or a process that hangs. The same line, with a space in it, wakes the ranks of an idle group.
"""

from __future__ import annotations

import os
import re
import select
import signal
import threading
import time
from collections.abc import Mapping, Sequence
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


class RollCall:
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
