"""The servers that the engine's benchmark compares: ollmlx, its engine without a server, and `mlx_lm.server`."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from ollmlx.bench.measure import Target
from ollmlx.bench.measure import resident as resident
from ollmlx.model.names import ModelName
from ollmlx.testing.daemon import Daemon
from ollmlx_mlx.daemon.backend import find_blas
from ollmlx_mlx.daemon.machine import BlasChoice, MlxMachine

MODEL = "smollm2:135m"
PATIENCE = 120.0
"""Seconds for a server to start."""


@dataclass(frozen=True)
class Weights:
    """One model in two folders: as ollmlx pulled it (4-bit), and its weights unpacked to float32 for mlx_lm.server."""

    store: Path
    pulled: Path
    float32: Path


def blas() -> BlasChoice:
    """Return the BLAS that the runners of ollmlx use on this machine."""
    return find_blas(MlxMachine.here(), None).choose("auto", 0)


def environment(env: dict[str, str]) -> dict[str, str]:
    """Return the environment of a peer. Runners of ollmlx do not see OpenBLAS's variables of this one either."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")} | env


def weights(cache: Path) -> Weights:
    """Pull the model once, and convert a copy to float32 with mlx-lm."""
    store = cache / "models"
    found = Weights(store, store / "mlx" / ModelName.parse(MODEL).folder, cache / "float32")
    if not (found.pulled / "config.json").is_file():
        with ollmlx(store) as daemon:
            last = daemon.lines("/api/pull", {"model": MODEL, "backend": "mlx"})[-1]
            if last.get("status") != "success":
                raise SystemExit(f"{MODEL} cannot be pulled: {last}")
    if not (found.float32 / "config.json").is_file():
        argv = [sys.executable, "-m", "mlx_lm", "convert", "--hf-path", str(found.pulled), "--dequantize"]
        argv += ["--mlx-path", str(found.float32), "--dtype", "float32"]
        subprocess.run(argv, check=True, env=environment(blas().env), stdout=sys.stderr)
    return found


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep the machine busy with so many processes that only count."""
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


@contextmanager
def ollmlx(store: Path, state: Path | None = None, env: dict[str, str] | None = None) -> Iterator[Daemon]:
    """Run a daemon with the default settings, except for its folders, its port, and a keep-alive of an hour."""
    with tempfile.TemporaryDirectory(prefix="ollmlx-") as scratch:
        settings = {
            "storage": {"models": str(store), "state": str(state or Path(scratch) / "state")},
            "logging": {"level": "info"},
            "runners": {"keep_alive": 3600},
        }
        # The user's own home folder, which has the caches of earlier downloads.
        daemon = Daemon(Path(scratch), settings=settings, env={"HOME": str(Path.home()), **(env or {})})
        try:
            yield daemon.start()
        finally:
            daemon.stop()


def target(daemon: Daemon, dialect: str = "openai") -> Target:
    """Return a daemon as a target."""
    return Target("ollmlx", f"{daemon.url}/v1" if dialect == "openai" else daemon.url, MODEL, dialect)  # type: ignore[arg-type]


@asynccontextmanager
async def mlx_lm_server(folder: Path, env: dict[str, str]) -> AsyncIterator[tuple[Target, int]]:
    """Run `mlx_lm.server` with its defaults; yield it and its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder), "--port", str(port)]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, stdout=quiet, stderr=quiet, env=environment(env))
    try:
        await _wait_until_ready(process, f"http://127.0.0.1:{port}/health")
        yield Target("mlx_lm.server", f"http://127.0.0.1:{port}/v1", "default_model"), process.pid
    finally:
        process.terminate()
        await process.wait()


async def _wait_until_ready(process: asyncio.subprocess.Process, url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline and process.returncode is None:
            try:
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.02)
    raise SystemExit("mlx_lm.server did not start")


class DirectEngine:
    """The engine without server and protocol, in a process of its own with the runner's BLAS."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def rate(self, streams: int, tokens: int, seed: int) -> float:
        """Return the tokens a second of all streams together."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"streams": streams, "tokens": tokens, "seed": seed}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return float(answer["rate"])


@asynccontextmanager
async def direct(folder: Path, choice: BlasChoice) -> AsyncIterator[DirectEngine]:
    """Run the engine with the model loaded."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("direct.py")),
        str(folder),
        str(choice.streams),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment(choice.env),
    )
    try:
        yield DirectEngine(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
