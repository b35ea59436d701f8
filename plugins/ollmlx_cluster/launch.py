"""`python -m ollmlx_cluster.launch --fd N --plan JSON`: the process that the daemon sees as the runner.

It starts the ranks with mlx.launch, hands its listening socket to rank 0 and waits. The group lives and dies as one:
when a rank ends or is silent, all end, and this ends with rank 0's exit code, or 70 when a rank was lost.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Final, NoReturn

import psutil

from ollmlx.protocol import ExitCode, RunnerConfig
from ollmlx.runner import CannotStart, program, read_config
from ollmlx_cluster.handover import WAKING, LauncherSocket
from ollmlx_cluster.hosts import arguments, hosts_of, ranks_of
from ollmlx_cluster.liveness import BEAT, LINE, SILENCE, WAKE, RankFailures, RankLiveness

LINGER: Final = 3.0
"""Seconds that the others have to end after rank 0."""
MOMENT: Final = 0.4
"""Seconds in which all ranks that a loss brings down are told of."""
_LONGEST_LINE: Final = 64 * 1024
_NOISE: Final = re.compile(r"\s*|/\S+/tmp\.\w{10}")
"""What mlx.launch's shell prints on a remote host before the rank starts."""


def main() -> NoReturn:
    """Start the group and end with it."""
    parser = argparse.ArgumentParser(prog="python -m ollmlx_cluster.launch")
    parser.add_argument("--fd", required=True, type=int)
    parser.add_argument("--plan", required=True)
    parser.add_argument("--silence", type=float, default=SILENCE, help="seconds after which a silent rank is lost")
    given = parser.parse_args()
    daemon = program.tie()
    program.confine()
    try:
        code = run(read_config(), given.fd, json.loads(given.plan), daemon, given.silence)
    except CannotStart as failure:
        sys.stderr.write(f"{failure}\n")
        code = failure.code
    sys.stderr.flush()
    os._exit(code)


def run(config: RunnerConfig, fd: int, plan: dict[str, Any], daemon: int, silence: float) -> int:
    """One group's life; answers the exit code."""
    host = LauncherSocket()
    try:
        hostfile = host.path.with_name("hosts.json")
        hostfile.write_text(json.dumps(hosts_of(plan)), encoding="utf-8")
        rank = ["--rendezvous", str(host.path), "--silence", str(silence)]
        started = subprocess.Popen(
            [sys.executable, "-P", "-m", "ollmlx_cluster.mlx_launch", *arguments(plan, hostfile, rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(host.path.parent)},  # mlx.launch leaves its files behind
        )
    except BaseException:
        host.close()
        raise
    threading.Thread(target=_end_with, args=(daemon, started, host), daemon=True).start()
    try:
        return GroupMonitor(host, started, ranks_of(plan), silence).until_the_end(config, fd)
    finally:
        _kill(started)
        host.close()


class GroupMonitor:
    """What the launcher does while the group lives: hand over the work, keep the pulse, hear what is said."""

    def __init__(self, host: LauncherSocket, group: subprocess.Popen[bytes], hosts: list[str], silence: float) -> None:
        assert group.stdin is not None
        assert group.stdout is not None
        self._host = host
        self._group = group
        self._input, self._output = group.stdin.fileno(), group.stdout.fileno()
        os.set_blocking(self._input, False)
        self._rolls = RankLiveness(hosts, silence, time.monotonic())
        self._losses = RankFailures(hosts)
        self._partial = b""
        self._visitor: socket.socket | None = None
        self._end = math.inf
        """When to stop waiting for what is still to be said."""
        self._waking = False
        """The next line has to wake the ranks."""
        self._said: int | None = None
        """The exit code that rank 0 announced."""

    def until_the_end(self, config: RunnerConfig, fd: int) -> int:
        """Until the group or any rank is gone; answers the exit code, having said why."""
        beat = time.monotonic()
        while self._group.poll() is None and (now := time.monotonic()) < self._end:
            if now >= beat:
                self._beat()
                beat = now + BEAT
                if (missing := self._rolls.missing(now)) is not None:
                    sys.stderr.write(f"{missing}\n")
                    return ExitCode.INTERNAL
            self._look(config, fd, max(0.0, min(beat, self._end) - now))
        while select.select([self._output], [], [], 0)[0] and self._listen():
            pass
        if self._said not in (None, ExitCode.INTERNAL):
            return self._said
        code, why = self._losses.verdict(self._rolls.seen) or (ExitCode.INTERNAL, "the group has ended")
        sys.stderr.write(f"{why}\n")
        return code

    def _look(self, config: RunnerConfig, fd: int, patience: float) -> None:
        talking = (self._visitor or self._host.socket).fileno()
        heard = [talking] if math.isinf(self._end) else []
        ready, _, _ = select.select([*heard, self._output], [], [], patience)
        if self._output in ready and not self._listen():
            self._end_within(0)
        if talking in ready:
            self._attend(config, fd)

    def _attend(self, config: RunnerConfig, fd: int) -> None:
        """Serve the socket that rank 0 uses."""
        if self._visitor is None:
            self._visitor, _ = self._host.socket.accept()
            self._host.hand_over(self._visitor, config, fd)
            # Nobody but rank 0 listens from now on: when it dies, its clients must notice at once.
            os.close(fd)
            return
        try:
            lines = self._host.hear(self._visitor)
        except OSError:
            self._end_within(LINGER)
            return
        for line in lines:
            if line.startswith("exit "):
                self._said = int(line.removeprefix("exit "))
                self._end_within(LINGER)
            elif line == WAKING:
                self._waking = True
                self._beat()

    def _beat(self) -> None:
        with suppress(OSError):  # the end of mlx.launch is noticed where it is waited for
            os.write(self._input, WAKE if self._waking else LINE)
            self._waking = False

    def _listen(self) -> bool:
        """Take what the group printed. False: nobody prints any more."""
        data = os.read(self._output, 65536)
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-_LONGEST_LINE:]
        for raw in lines:
            line = raw.decode("utf-8", "replace").rstrip("\r")
            if self._losses.hear(line):
                # Others may have gone first: their ends are told within moments.
                self._end_within(MOMENT)
            elif not self._rolls.hear(line, time.monotonic()) and not _NOISE.fullmatch(line):
                sys.stderr.write(line + "\n")
        sys.stderr.flush()
        return bool(data)

    def _end_within(self, seconds: float) -> None:
        self._end = min(self._end, time.monotonic() + seconds)


def _end_with(daemon: int, group: subprocess.Popen[bytes], host: LauncherSocket) -> None:
    while os.getppid() == daemon:
        readable, _, _ = select.select([0], [], [], 1.0)
        if readable and not os.read(0, 65536):
            break
    _kill(group)
    host.close()
    os._exit(ExitCode.PARENT_GONE)


def _kill(group: subprocess.Popen[bytes]) -> None:
    family: list[psutil.Process] = []
    with suppress(psutil.Error):
        family = psutil.Process(group.pid).children(recursive=True)
    for process in family:
        with suppress(psutil.Error):
            process.kill()
    if group.poll() is None:
        group.kill()
    group.wait()


if __name__ == "__main__":
    main()
