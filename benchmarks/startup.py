"""Measures start-up: the command line, the daemon, and the first answer of a model that is not loaded.

    python benchmarks/startup.py [--rounds 5] [--engines llamacpp,mlx]

SmolLM2-135M is pulled once for each engine, into the user's cache. Each daemon listens on the loopback address, has a
temporary state folder and is stopped at the end. "First time" means an empty state folder: the daemon examines the
machine again. "From nothing" is `ollmlx run smollm2:135m hi`, which starts the daemon: the time until its first letter,
and the processor time of all processes until then, which other work on the machine disturbs less. The system's file
cache is left as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import sides

from ollmlx_pypi.source import cache_folder

OLLMLX = str(Path(sys.executable).parent / "ollmlx")
PROMPT = "What is the capital of France?"


def cpu(*arguments: str) -> float:
    """Return the CPU seconds, user and system, of one command."""
    process = subprocess.Popen([OLLMLX, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"ollmlx {' '.join(arguments)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def installed(engine: str) -> Path:
    """Return a models folder that has the model for this engine only."""
    store = cache_folder() / "benchmarks" / ("models" if engine == "mlx" else f"models-{engine}")
    with sides.ollmlx(store) as daemon:
        if not daemon.get("/api/tags").json()["models"]:
            daemon.lines("/api/pull", {"model": sides.MODEL, "backend": engine})
    return store


def start(models: Path, state: Path) -> dict[str, float]:
    """Start a daemon; return the seconds until it listens and until its first answer, and those of a second answer."""
    body = {"model": sides.MODEL, "prompt": PROMPT, "stream": False, "options": {"num_predict": 8, "temperature": 0}}
    began = time.perf_counter()
    with sides.ollmlx(models, state) as daemon:
        daemon.get("/")
        listening = time.perf_counter() - began
        daemon.post("/api/generate", body).raise_for_status()
        first = time.perf_counter() - began
        again = time.perf_counter()
        daemon.post("/api/generate", body)
        return {"listening": listening, "first answer": first, "second answer": time.perf_counter() - again}


def from_nothing(models: Path, state: Path) -> dict[str, float]:
    """Run the command that starts the daemon; return the seconds until its first letter, and the CPU seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = {**os.environ, "OLLAMA_HOST": address, "OLLAMA_MODELS": str(models), "OLLMLX_STORAGE__STATE": str(state)}
    began = time.perf_counter()
    with subprocess.Popen([OLLMLX, "run", sides.MODEL, "hi"], env=env, cwd=state, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        letter = os.read(command.stdout.fileno(), 1)
        took = time.perf_counter() - began
        daemon = psutil.Process(asked(f"http://{address}/api/daemon")["pid"])
        spent = sum(processor_seconds(one) for one in [psutil.Process(command.pid), daemon, *daemon.children(True)])
        command.terminate()  # the answer may be long
    daemon.terminate()
    daemon.wait(60)
    if not letter:
        raise SystemExit(f"no answer; see {state}")
    return {"first letter": took, "first letter, CPU": spent}


def asked(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default="llamacpp,mlx")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows: dict[str, list[float]] = {}

    def note(where: str, found: dict[str, float]) -> None:
        for what, seconds in found.items():
            rows.setdefault(f"{where}, {what}", []).append(seconds)

    for _ in range(options.rounds):
        note("`ollmlx`", {f"`{flag}`, CPU": cpu(flag) for flag in ("--version", "--help")})
    for engine in options.engines.split(","):
        models = installed(engine)
        with tempfile.TemporaryDirectory() as kept:
            from_nothing(models, Path(kept))
            for _ in range(options.rounds):
                with tempfile.TemporaryDirectory() as fresh:
                    note(f"{engine}, first time", start(models, Path(fresh)))
                note(f"{engine}, known machine", start(models, Path(kept)))
                note(f"{engine}, from nothing", from_nothing(models, Path(kept)))
    print("| | median | least | most |\n|---|---|---|---|")
    for what, times in rows.items():
        print(f"| {what} | {statistics.median(times):.2f} s | {min(times):.2f} s | {max(times):.2f} s |")


if __name__ == "__main__":
    main()
