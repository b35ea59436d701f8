"""Orphans: kill the daemon with SIGKILL in each phase of a runner's life, and count the processes that are left.

    python benchmarks/orphans.py [--repeat 25] [--phase idle ...]

Bounded in count, loopback only, fake models (real processes without weights). Prints, for each phase, how long the last
runner lived on. Exits 1 when a process of the daemon was alive 3 s after the kill; those are ended here.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ollmlx.testing.daemon import Daemon
from ollmlx.testing.waiting import wait_until

GRACE = 3.0
"""Seconds after which a process that is still alive counts as an orphan."""
STEP = 0.005
MODELS: dict[str, dict[str, object]] = {
    "quick": {},
    "slow": {"load_steps": 1000, "load_ms": 50},
    "chatty": {"rate": 50, "tokens": 100_000},
}


@dataclass
class Phase:
    """A state of a runner in which its daemon is killed, with the request that leads to it and a check for it."""

    model: str
    prompt: str
    reached: Callable[[Daemon, socket.socket], bool]


def answering(client: socket.socket) -> bool:
    """Return True when the stream has grown since the last call."""
    try:
        return b'"response"' in client.recv(1 << 16)
    except TimeoutError:
        return False


def active(server: Daemon) -> int:
    """Requests that the loaded runner serves; 1 while none is loaded."""
    models = server.get("/api/ps").json()["models"]
    return int(models[0]["active"]) if models else 1


def stuck(server: Daemon, client: socket.socket) -> bool:
    """Return True when a stream that had begun has not grown for a while."""
    quiet = time.monotonic()
    while time.monotonic() - quiet < 0.3:
        if answering(client):
            quiet = time.monotonic()
    return bool(runners(server))


def family(server: Daemon) -> list[psutil.Process]:
    """The daemon's processes: its runners and its guardian."""
    return psutil.Process(server.process.pid).children(recursive=True)


def runners(server: Daemon) -> list[psutil.Process]:
    return [child for child in family(server) if "ollmlx.runner" in child.cmdline()]


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


PHASES = {
    "idle": Phase("quick", "a", lambda server, client: not active(server) and bool(runners(server))),
    "loading": Phase("slow", "a", lambda server, client: bool(runners(server))),
    "streaming": Phase("chatty", "a", lambda server, client: answering(client)),
    "interpreter lock held": Phase("chatty", "fake:fault=gil@3 a", stuck),
}


@dataclass
class Tally:
    """Seconds from each kill to the exit of the last runner, and the number of processes that were left."""

    seconds: list[float] = field(default_factory=list)
    orphans: int = 0


def kill_once(server: Daemon, phase: Phase, tally: Tally) -> None:
    """Start the daemon, bring a runner into the phase, kill the daemon."""
    server.start()
    port = int(server.url.rsplit(":", 1)[1])
    with closing(socket.create_connection(("127.0.0.1", port))) as client:
        client.settimeout(0.05)
        body = json.dumps({"model": phase.model, "prompt": phase.prompt}).encode()
        head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
        client.sendall(head + body)
        wait_until(lambda: phase.reached(server, client), 30)
        theirs, everyone = runners(server), family(server)
        server.kill()
        killed = time.monotonic()
        while any(map(alive, theirs)) and time.monotonic() - killed < GRACE:
            time.sleep(STEP)
        tally.seconds.append(time.monotonic() - killed)
        # The guardian exits after every group that it ends.
        while (left := [one for one in everyone if alive(one)]) and time.monotonic() - killed < GRACE:
            time.sleep(STEP)
        tally.orphans += len(left)
        for one in left:
            one.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=25)
    parser.add_argument("--phase", nargs="+", choices=sorted(PHASES), default=list(PHASES))
    options = parser.parse_args()
    repeat, orphans = min(options.repeat, 1000), 0
    print(f"{'phase':24} kills  orphans  last runner gone after, ms: median, most")
    for name in options.phase:
        tally = Tally()
        with tempfile.TemporaryDirectory(prefix="ollmlx-orphans-") as folder:
            server = Daemon(Path(folder), fakes=MODELS, settings={"logging": {"level": "info"}})
            for _ in range(repeat):
                kill_once(server, PHASES[name], tally)
        median, most = sorted(tally.seconds)[repeat // 2], max(tally.seconds)
        print(f"{name:24} {repeat:5}  {tally.orphans:7}  {median * 1e3:.0f}, {most * 1e3:.0f}", flush=True)
        orphans += tally.orphans
    return 1 if orphans else 0


if __name__ == "__main__":
    sys.exit(main())
