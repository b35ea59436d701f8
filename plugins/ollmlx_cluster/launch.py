"""`python -m ollmlx_cluster.launch --fd N --plan JSON`: the launcher, the process that the daemon sees as the runner.

It starts the ranks with mlx.launch, passes its listening socket to rank 0 and waits. When a rank ends or is silent, all
ranks end. The exit code is rank 0's, or 70 when a rank was lost.
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
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, NoReturn

import psutil

from ollmlx.protocol import ExitCode, RunnerConfig
from ollmlx.runner import CannotStart, confine, read_config, tie
from ollmlx_cluster.hosts import hosts_of, launch_arguments, ranks_of
from ollmlx_cluster.messages import BEAT, LINE, SILENCE, WAKE, WAKING, LauncherSocket, RankFailures, RankLiveness

LINGER: Final = 3.0
"""Seconds that the other ranks have to end after rank 0."""
MOMENT: Final = 0.4
"""Seconds to wait for more reports of ended ranks after the first one."""
_LONGEST_LINE: Final = 64 * 1024
_NOISE: Final = re.compile(r"\s*|/\S+/tmp\.\w{10}")
"""Output of mlx.launch's shell on a remote host before the rank starts."""


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m ollmlx_cluster.launch")
    parser.add_argument("--fd", required=True, type=int)
    parser.add_argument("--plan", required=True)
    parser.add_argument("--silence", type=float, default=SILENCE, help="seconds after which a silent rank is lost")
    given = parser.parse_args()
    daemon = tie()
    confine()
    try:
        code = run(read_config(), given.fd, json.loads(given.plan), daemon, given.silence)
    except CannotStart as failure:
        sys.stderr.write(f"{failure}\n")
        code = failure.code
    sys.stderr.flush()
    os._exit(code)


def sandbox_of(backend: str, environ: Mapping[str, str]) -> str:
    """Return the sandbox of the ranks. Those of ring need the network and files; what others need is not known here."""
    return "network" if backend == "ring" and environ.get("OLLMLX_SANDBOX", "off") != "off" else "off"


def run(config: RunnerConfig, fd: int, plan: dict[str, Any], daemon: int, silence: float) -> int:
    """Start a group and wait for its end. Returns the exit code."""
    server = LauncherSocket()
    try:
        hostfile = server.path.with_name("hosts.json")
        hostfile.write_text(json.dumps(hosts_of(plan)), encoding="utf-8")
        rank = ["--socket", str(server.path), "--silence", str(silence), "--model", str(config.model.path)]
        rank += ["--sandbox", sandbox_of(plan["backend"], os.environ)]
        started = subprocess.Popen(
            [sys.executable, "-P", "-m", "ollmlx_cluster.mlx_launch", *launch_arguments(plan, hostfile, rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=server.path.parent,
            env={**os.environ, "TMPDIR": str(server.path.parent)},  # mlx.launch does not remove its files
        )
    except BaseException:
        server.close()
        raise
    threading.Thread(target=_end_with, args=(daemon, started, server), daemon=True).start()
    try:
        return GroupMonitor(server, started, ranks_of(plan), silence).wait(config, fd)
    finally:
        _kill(started)
        server.close()


class GroupMonitor:
    """Watches a running group: passes the work to rank 0, exchanges lines with the ranks, reads their output."""

    def __init__(
        self, server: LauncherSocket, group: subprocess.Popen[bytes], hosts: list[str], silence: float
    ) -> None:
        assert group.stdin is not None
        assert group.stdout is not None
        self._server = server
        self._group = group
        self._input, self._output = group.stdin.fileno(), group.stdout.fileno()
        os.set_blocking(self._input, False)
        self._liveness = RankLiveness(hosts, silence, time.monotonic())
        self._failures = RankFailures(hosts)
        self._partial = b""
        self._connection: socket.socket | None = None
        self._end = math.inf
        """The time at which to stop waiting for more output."""
        self._waking = False
        """True when the next line has to wake the ranks."""
        self._exit_code: int | None = None
        """The exit code that rank 0 announced, or None."""

    def wait(self, config: RunnerConfig, fd: int) -> int:
        """Wait until the group or any rank has ended. Writes the reason to standard error and returns the exit code."""
        beat = time.monotonic()
        while self._group.poll() is None and (now := time.monotonic()) < self._end:
            if now >= beat:
                self._send_line()
                beat = now + BEAT
                if (missing := self._liveness.missing(now)) is not None:
                    sys.stderr.write(f"{missing}\n")
                    return ExitCode.INTERNAL
            self._poll(config, fd, max(0.0, min(beat, self._end) - now))
        while select.select([self._output], [], [], 0)[0] and self._read_output():
            pass
        if self._exit_code not in (None, ExitCode.INTERNAL):
            return self._exit_code
        code, why = self._failures.verdict(self._liveness.seen) or (ExitCode.INTERNAL, "the group has ended")
        sys.stderr.write(f"{why}\n")
        return code

    def _poll(self, config: RunnerConfig, fd: int, patience: float) -> None:
        rank0 = (self._connection or self._server.socket).fileno()
        watched = [rank0] if math.isinf(self._end) else []
        ready, _, _ = select.select([*watched, self._output], [], [], patience)
        if self._output in ready and not self._read_output():
            self._end_within(0)
        if rank0 in ready:
            self._serve_rank0(config, fd)

    def _serve_rank0(self, config: RunnerConfig, fd: int) -> None:
        """Accept rank 0's connection, or read its lines."""
        if self._connection is None:
            self._connection, _ = self._server.socket.accept()
            self._server.send_work(self._connection, config, fd)
            # Only rank 0 listens from now on: when it ends, its clients notice at once.
            os.close(fd)
            return
        try:
            lines = self._server.read_lines(self._connection)
        except OSError:
            self._end_within(LINGER)
            return
        for line in lines:
            if line.startswith("exit "):
                self._exit_code = int(line.removeprefix("exit "))
                self._end_within(LINGER)
            elif line == WAKING:
                self._waking = True
                self._send_line()

    def _send_line(self) -> None:
        with suppress(OSError):  # `wait` notices the end of mlx.launch
            os.write(self._input, WAKE if self._waking else LINE)
            self._waking = False

    def _read_output(self) -> bool:
        """Read what the group printed. Returns False at the end of its output."""
        data = os.read(self._output, 65536)
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-_LONGEST_LINE:]
        for raw in lines:
            line = raw.decode("utf-8", "replace").rstrip("\r")
            if self._failures.note_line(line):
                # Another rank may have ended before: its report follows soon.
                self._end_within(MOMENT)
            elif not self._liveness.note_line(line, time.monotonic()) and not _NOISE.fullmatch(line):
                sys.stderr.write(line + "\n")
        sys.stderr.flush()
        return bool(data)

    def _end_within(self, seconds: float) -> None:
        self._end = min(self._end, time.monotonic() + seconds)


def _end_with(daemon: int, group: subprocess.Popen[bytes], server: LauncherSocket) -> None:
    while os.getppid() == daemon:
        readable, _, _ = select.select([0], [], [], 1.0)
        if readable and not os.read(0, 65536):
            break
    _kill(group)
    server.close()
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
