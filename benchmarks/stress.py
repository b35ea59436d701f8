"""Stress: many clients, mixed models, random cancels, a runner killed every few seconds, against a real daemon.

    python benchmarks/stress.py [--seconds 180] [--clients 64] [--kill-every 3] [--seed 1]

Bounded in time, loopback only, fake models (real processes without weights). More models than memory allows, so that
they evict one another. Every request has to end in a complete answer or a clean error. Exits 1 when one was broken, a
process was left behind, `/api/ps` was wrong at the end, or the daemon's memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from ollmlx.testing.daemon import Daemon

MIB = 1024 * 1024
FAKES: dict[str, dict[str, object]] = {
    "parrot": {"rate": 200, "parallel": 8},
    "finch": {"rate": 100, "parallel": 4, "prefill": 4, "prefill_ms": 20},
    "heron": {"rate": 50, "parallel": 2, "load_ms": 100, "load_steps": 3},
    "owl": {"rate": 0, "tokens": 400, "parallel": 4},
}
SETTINGS: dict[str, object] = {
    "runners": {
        "max_loaded_models": 3,
        "max_queue": 56,
        "keep_alive": 20,
        "hang_timeout": 10,
    },
    "logging": {"level": "info"},
}
PATIENCE = 120.0
"""A request without an end after this long is broken."""
GROWTH = 48 * MIB
"""Growth of the daemon's memory between the end of the warm-up and the end that counts as flat."""


@dataclass
class Tally:
    """The outcomes so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    slowest: float = 0.0
    seen: dict[int, float] = field(default_factory=dict)
    """All processes of the daemon that were seen, by id, with their start times."""

    def end(self, client: str, outcome: str, detail: str) -> None:
        self.outcomes[outcome] += 1
        if outcome == "broken":
            self.broken.append(f"{client}: {detail}")
        elif detail:
            self.reasons[re.sub(r"[0-9]+", "N", detail)[:150]] += 1


class Client:
    """Send one request after the other, half of them streamed; disconnect from some in the middle."""

    def __init__(self, number: int, server: Daemon, session: aiohttp.ClientSession, tally: Tally, seed: int) -> None:
        self._name = f"client-{number}"
        self._server = server
        self._session = session
        self._tally = tally
        self._rng = random.Random(seed * 1000 + number)
        self._retry_after = 0.0

    async def work(self, until: float) -> None:
        while time.monotonic() < until:
            leave = self._rng.uniform(0.01, 1.0) if self._rng.random() < 0.2 else None
            began = time.monotonic()
            try:
                async with asyncio.timeout(leave or PATIENCE):
                    outcome, detail = await self._ask()
            except TimeoutError:
                outcome, detail = ("cancelled", "") if leave else ("broken", f"no end after {PATIENCE:g} s")
            self._tally.slowest = max(self._tally.slowest, time.monotonic() - began)
            self._tally.end(self._name, outcome, detail)
            if outcome == "clean error":  # as long as the daemon asks for, within the time that is left
                pause = self._retry_after or self._rng.uniform(0.05, 0.3)
                await asyncio.sleep(min(pause * self._rng.uniform(1.0, 1.2), max(0.0, until - time.monotonic())))

    async def _ask(self) -> tuple[str, str]:
        self._retry_after = 0.0
        model, stream = self._rng.choice(list(FAKES)), self._rng.random() < 0.7
        body: dict[str, object] = {"model": model, "stream": stream}
        if model != "owl":
            body["options"] = {"num_predict": self._rng.randint(1, 60)}
        body["prompt"] = " ".join(f"word{n}" for n in range(self._rng.randint(1, 60)))
        try:
            async with self._session.post(f"{self._server.url}/api/generate", json=body) as response:
                self._tally.statuses[response.status] += 1
                self._retry_after = float(response.headers.get("Retry-After", 0))
                text = await response.text()
        except aiohttp.ClientError as error:
            return "broken", f"{model}: {error!r}"
        return judged(response.status, text, model)


def judged(status: int, text: str, model: str) -> tuple[str, str]:
    """Classify an answer as complete, a clean error, or broken."""
    try:
        records = [json.loads(line) for line in text.splitlines()]
    except ValueError:
        return "broken", f"{model}: status {status}, not JSON: {text[-120:]!r}"
    if not records:
        return "broken", f"{model}: status {status}, empty"
    last = records[-1]
    if "error" in last:
        return "clean error", str(last["error"])
    if status == 200 and last.get("done") is True:
        return "completed", ""
    return "broken", f"{model}: status {status}, no end: {text[-120:]!r}"


async def disturb(server: Daemon, tally: Tally, every: float, until: float, rng: random.Random) -> None:
    """Note every process of the daemon, and kill a runner now and then, in one of several ways."""
    daemon = psutil.Process(server.process.pid)
    next_kill = time.monotonic() + every
    while time.monotonic() < until:
        runners = note(daemon, tally)
        if runners and time.monotonic() >= next_kill:
            next_kill = time.monotonic() + every * rng.uniform(0.7, 1.3)
            with suppress(psutil.NoSuchProcess):
                rng.choice(runners).send_signal(rng.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]))
                tally.kills += 1
        await asyncio.sleep(0.1)


def note(daemon: psutil.Process, tally: Tally) -> list[psutil.Process]:
    """Return the runners of the daemon that run now."""
    runners = []
    for child in daemon.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            tally.seen[child.pid] = child.create_time()
            if child.status() != psutil.STATUS_ZOMBIE and "ollmlx.runner" in child.cmdline():
                runners.append(child)
    return runners


def left_behind(tally: Tally) -> list[int]:
    """Return the processes that still run after the daemon has exited."""
    left = []
    for pid, born in tally.seen.items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE:
                left.append(pid)
    return left


async def consistent(server: Daemon, session: aiohttp.ClientSession) -> tuple[list[str], int]:
    """Wait until no request runs. Return the models of `/api/ps`, and the number of runners."""
    daemon = psutil.Process(server.process.pid)
    for _ in range(50):
        async with session.get(f"{server.url}/api/ps") as response:
            named = [model["name"] for model in (await response.json())["models"]]
        runners = len(note(daemon, Tally()))
        if len(named) == runners:
            break
        await asyncio.sleep(0.1)
    return named, runners


async def run(options: argparse.Namespace, server: Daemon) -> tuple[Tally, int, int, tuple[list[str], int]]:
    tally = Tally()
    daemon = psutil.Process(server.process.pid)
    rng = random.Random(options.seed)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout()) as session:
        clients = [Client(n, server, session, tally, options.seed) for n in range(options.clients)]
        warm = time.monotonic() + min(20.0, options.seconds / 3)
        until = time.monotonic() + options.seconds
        disturbing = asyncio.create_task(disturb(server, tally, options.kill_every, until, rng))
        working = [asyncio.create_task(client.work(until)) for client in clients]
        await asyncio.sleep(warm - time.monotonic())
        before = daemon.memory_info().rss
        await asyncio.gather(*working, disturbing)
        after = daemon.memory_info().rss
        listed = await consistent(server, session)
    note(daemon, tally)
    return tally, before, after, listed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--kill-every", type=float, default=3)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ollmlx-stress-") as folder:
        server = Daemon(Path(folder), fakes=FAKES, settings=SETTINGS).start()
        try:
            tally, before, after, (named, runners) = asyncio.run(run(options, server))
        finally:
            code = server.stop()
        time.sleep(1)
        orphans = left_behind(tally)
        tracebacks = server.log_text.count("Traceback (most recent call last)")
    rows = {
        "requests": tally.outcomes.total(),
        "completed": tally.outcomes["completed"],
        "clean errors": tally.outcomes["clean error"],
        "cancelled by the client": tally.outcomes["cancelled"],
        "broken": tally.outcomes["broken"],
        "runners killed": tally.kills,
        "orphans": len(orphans),
        "models in /api/ps, runners": f"{len(named)}, {runners}",
        "slowest request": f"{tally.slowest:.1f} s",
        "daemon rss before, after": f"{before / MIB:.0f} MiB, {after / MIB:.0f} MiB",
        "daemon exit code": code,
        "tracebacks in its log": tracebacks,
    }
    for name, value in rows.items():
        print(f"{name:28} {value}")
    print(f"{'statuses':28} {dict(sorted(tally.statuses.items()))}")
    for reason, count in tally.reasons.most_common():
        print(f"  {count:6} {reason}")
    for detail in tally.broken[:10]:
        print(f"  broken: {detail}")
    good = not tally.broken and not orphans and code == 0 and len(named) == runners and after - before < GROWTH
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
