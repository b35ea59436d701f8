"""Probes of BLAS libraries, each in a child process.

That a library works is remembered until something about it changes. A failure is not: the next start tries again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError

from ollmlx.errors import StorageError
from ollmlx.storekit import read_bounded, write_whole
from ollmlx_mlx.daemon.machine import MlxMachine
from ollmlx_mlx.linux_cpu.blas import BlasCandidate

logger = logging.getLogger(__name__)

TIMEOUT: Final = 60.0
"""Seconds a probe may take; the reference BLAS needs about half a second."""
MAX_MEMORY_FILE: Final = 1 << 20

# A product as in a model's output layer, checked against its known result. The first one loads the library, which takes
# longer than all others together, and does not count; the least of the others is the least disturbed by other work.
# A library without the function that MLX calls would leave MLX with the reference.
PROGRAM: Final = """
import ctypes, json, os, time
import mlx.core as mx
if "LD_PRELOAD" in os.environ:
    ctypes.CDLL(os.environ["LD_PRELOAD"]).cblas_sgemm
mx.set_default_device(mx.cpu)
left = mx.ones((48, 512), dtype=mx.float32) * 0.5
right = mx.broadcast_to(mx.arange(4096, dtype=mx.float32)[:, None], (4096, 512)) + mx.zeros((4096, 512))
mx.eval(left, right)
times = []
for _ in range(6):
    begun = time.perf_counter()
    product = left @ right.T
    mx.eval(product)
    times.append(time.perf_counter() - begun)
expected = mx.arange(4096, dtype=mx.float32) * 256
wrong = mx.max(mx.abs(product - expected[None]) / (1 + expected[None])).item()
print(json.dumps({"seconds": min(times[1:]), "wrong": wrong}))
"""


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe: `seconds` for the test product, or why the library is unusable."""

    seconds: Annotated[float | None, Field(gt=0, strict=True)]
    problem: str = ""


_RESULTS: Final = TypeAdapter(dict[str, ProbeResult])


class ProbeMemory:
    """The libraries that have computed correctly, by their identity, in one file of the state folder.

    A damaged file is replaced. Problems that earlier versions kept are forgotten.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._writing = Lock()

    def has(self, key: str) -> bool:
        """Return whether this library has computed correctly."""
        return key in self._read()

    def add(self, key: str, result: ProbeResult) -> None:
        """Remember a success, if the state folder exists: the daemon makes it, and the doctor leaves no files.

        When the file cannot be written, the next start probes again.
        """
        if self._file is None or not self._file.parent.is_dir():
            return
        with self._writing:
            try:
                write_whole(self._file, _RESULTS.dump_json({**self._read(), key: result}))
            except OSError as error:
                logger.warning("cannot remember the BLAS probe in %s: %s", self._file, error)

    def _read(self) -> dict[str, ProbeResult]:
        if self._file is None:
            return {}
        try:
            found = _RESULTS.validate_json(read_bounded(self._file, MAX_MEMORY_FILE, str(self._file)) or "{}")
        except (StorageError, ValidationError) as error:
            logger.warning("ignoring the remembered BLAS probes in %s: %s", self._file, error)
            return {}
        return {key: result for key, result in found.items() if result.seconds is not None}


class ChildProbe:
    """Computes with a library in a child with the same interpreter and environment as a runner."""

    def __init__(self, machine: MlxMachine, memory: ProbeMemory, *, python: str = sys.executable) -> None:
        self._machine = machine
        self._memory = memory
        self._python = python

    def problem(self, candidate: BlasCandidate) -> str:
        """Return why a library is unusable, else nothing. A library that has worked is not tried again."""
        key = identity(candidate, self._machine, self._python)
        if self._memory.has(key):
            return ""
        result = self._try(candidate.env)
        if result.seconds is not None:
            self._memory.add(key, result)
        return result.problem

    def seconds(self, env: Mapping[str, str]) -> float | None:
        """Return the time of the test product in a child with these variables, None when it does not compute."""
        return self._try(env).seconds

    def _try(self, env: Mapping[str, str]) -> ProbeResult:
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        try:
            done = subprocess.run(
                [self._python, "-I", "-c", PROGRAM],
                env={**environment, **env},
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return ProbeResult(None, f"it took more than {TIMEOUT:.0f} seconds")
        except OSError as error:
            return ProbeResult(None, f"{self._python} cannot be started: {error}")
        return read_result(done.returncode, done.stdout, done.stderr)


def read_result(code: int, output: str, errors: str) -> ProbeResult:
    """Return the result that the exit status and the output of a probe mean."""
    if refused := re.search(r"cannot be preloaded(?: \((.+?)\))?", errors):
        return ProbeResult(None, f"the dynamic linker cannot load it: {refused[1] or 'no reason given'}")
    if code != 0:
        return ProbeResult(None, _ended(code, errors))
    with suppress(ValueError, KeyError, TypeError):
        result = json.loads(output)
        if not result["wrong"] <= 1e-4:  # true for NaN as well
            return ProbeResult(None, "its results are wrong")
        return ProbeResult(float(result["seconds"]))
    return ProbeResult(None, "the output of the probe cannot be read")


def identity(candidate: BlasCandidate, machine: MlxMachine, python: str) -> str:
    """Return a key for all that a result depends on: library file, its settings, MLX, interpreter and CPU."""
    about: list[object] = [machine.cpu, machine.architecture, machine.packages.get("mlx"), python]
    about += [machine.packages.get("mlx-cpu"), machine.packages.get("mkl"), PROGRAM]
    about += [str(candidate.path), sorted(candidate.env.items())]
    with suppress(OSError):
        found = candidate.path.stat()
        about += [found.st_size, found.st_mtime_ns]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _ended(code: int, errors: str) -> str:
    if code < 0:
        names = {signal.SIGILL: "an illegal instruction: it is built for another CPU", signal.SIGSEGV: "a crash"}
        return f"the probe ended with {names.get(signal.Signals(-code), signal.Signals(-code).name)}"
    lines = errors.strip().splitlines()
    return f"the probe failed: {lines[-1][:200]}" if lines else f"the probe ended with status {code}"
