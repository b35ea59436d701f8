"""Why a group ended, from what mlx.launch and its ranks printed. Pure."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Final

from ollmlx.protocol import ExitCode

SSH_FAILED: Final = 255
UNKNOWN: Final = 1
"""What mpirun does not say in one line, and what Python ends with after an exception."""
NOT_FOUND: Final = (126, 127)
_EXITED: Final = re.compile(r"\[WARN\] Node with rank (\d{1,5}) (?:exited with code (-?\d{1,5})|was killed)")
_MPI: Final = re.compile(r"prterun noticed that process rank (\d{1,5}) with PID \d+ on node \S+ exited")
_WORDS: Final = re.compile(r"rank (\d{1,5}): (.+)")
_CURABLE: Final = (ExitCode.INTERNAL, ExitCode.PARENT_GONE)
"""With these a rank ends when another one is lost: seldom the cause."""


class Losses:
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
