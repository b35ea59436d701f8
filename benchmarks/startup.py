"""Measures start-up: the command line, the daemon, and the first answer of a model that is not loaded.

    python benchmarks/startup.py [--models FOLDER] [--model smollm2:135m] [--rounds 3]

The model must be installed (`ollmlx pull smollm2:135m`). Each daemon listens on the loopback address, has a temporary
state folder and is stopped at the end. "First time" means an empty state folder: the daemon examines the machine
again. The system's file cache is left as it is. Prints a table of the median, least and most seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

OLLMLX = str(Path(sys.executable).parent / "ollmlx")
PATIENCE = 120.0
PROMPT = "What is the capital of France?"


def cpu(*arguments: str) -> float:
    """Return the CPU seconds, user and system, of one command."""
    process = subprocess.Popen([OLLMLX, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"ollmlx {' '.join(arguments)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def ask(url: str, body: dict[str, object] | None = None) -> bytes | None:
    """Send a request; return None while no program listens."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(url, data=data, timeout=PATIENCE) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        raise SystemExit(f"the daemon answered {error.code}: {error.read().decode()}") from None
    except OSError:
        return None


def answered(url: str, body: dict[str, object] | None = None) -> bytes:
    """Wait for the daemon and return its answer."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if (answer := ask(url, body)) is not None:
            return answer
        time.sleep(0.005)
    raise SystemExit(f"no answer from {url} within {PATIENCE:g} s")


@contextlib.contextmanager
def daemon(models: Path, state: Path) -> Iterator[str]:
    """Start a daemon on a free port and yield its URL. It may not listen yet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "OLLAMA_HOST": address, "OLLAMA_MODELS": str(models)}
    environment["OLLMLX_STORAGE__STATE"] = str(state)
    with (state / "log").open("ab") as log:
        process = subprocess.Popen([OLLMLX, "serve"], env=environment, cwd=state, stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def start(models: Path, model: str, state: Path) -> dict[str, float]:
    """Start a daemon; return the seconds until it listens and until its first answer, and those of a second answer."""
    began = time.perf_counter()
    with daemon(models, state) as url:
        answered(f"{url}/")
        listening = time.perf_counter() - began
        body = {"model": model, "prompt": PROMPT, "stream": False, "options": {"num_predict": 8, "temperature": 0}}
        answered(f"{url}/api/generate", body)
        first = time.perf_counter() - began
        again = time.perf_counter()
        answered(f"{url}/api/generate", body)
        return {"listening": listening, "first answer": first, "second answer": time.perf_counter() - again}


def rounds(count: int, measure: Callable[[], float]) -> list[float]:
    """Repeat a measurement."""
    return [measure() for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=os.environ.get("OLLAMA_MODELS", "~/.ollama/models"))
    parser.add_argument("--model", default="smollm2:135m")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    models = Path(options.models).expanduser()
    rows = {
        "`ollmlx --version`, CPU": rounds(options.rounds, lambda: cpu("--version")),
        "`ollmlx --help`, CPU": rounds(options.rounds, lambda: cpu("--help")),
    }
    for kind in ("first time", "known machine"):
        with contextlib.ExitStack() as stack:
            kept = stack.enter_context(tempfile.TemporaryDirectory())
            if kind == "known machine":
                start(models, options.model, Path(kept))
            for _ in range(options.rounds):
                folder = kept if kind == "known machine" else stack.enter_context(tempfile.TemporaryDirectory())
                for what, seconds in start(models, options.model, Path(folder)).items():
                    rows.setdefault(f"{kind}, {what}", []).append(seconds)
    print("| | median | least | most |\n|---|---|---|---|")
    for what, times in rows.items():
        print(f"| {what} | {statistics.median(times):.2f} s | {min(times):.2f} s | {max(times):.2f} s |")


if __name__ == "__main__":
    main()
