"""The choice of a BLAS library for children on Linux CPUs. Metal and CUDA need none.

The stock `mlx-cpu` wheel links the reference BLAS, which is 10 to 50 times slower than a tuned one. BLAS symbols can be
interposed, so the choice is made in the child's environment. A library is only used after a child process has computed
with it: one that is built for another CPU ends its process with an illegal instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ollmlx_mlx.daemon.machine import BlasAdvice, BlasChoice, MlxMachine

MKL_COMMAND: Final = "pip install 'ollmlx[cpu]'"
OPENBLAS_COMMAND: Final = "sudo apt-get install libopenblas0-pthread"
REFERENCE: Final = "reference BLAS"
FEW_CORES: Final = 2

_OPENBLAS: Final = (
    "usr/lib/{arch}-linux-gnu/openblas-pthread/libopenblas.so.0",
    "usr/lib/{arch}-linux-gnu/libopenblas.so.0",
    "usr/lib64/libopenblasp.so.0",
    "usr/lib64/libopenblas.so.0",
    "usr/lib/libopenblas.so.0",
    "usr/lib/libopenblas.so",
)


@dataclass(frozen=True)
class BlasCandidate:
    """A BLAS library: `kind` is `mkl`, `openblas` or `custom`; `env` makes a child use it."""

    kind: str
    path: Path
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe: `seconds` for the test product, or why the library is unusable."""

    seconds: float | None
    problem: str = ""


Probe = Callable[[BlasCandidate | None], ProbeResult]
"""Computes with a library (None: as MLX is shipped) in a child process, or returns an earlier result. Thread-safe."""


def candidates(machine: MlxMachine, wish: str, threads: int) -> Iterator[BlasCandidate]:
    """Yield the libraries to probe, best first. `wish` is the setting: `auto`, `off` or a path."""
    if machine.device != "cpu" or machine.system != "linux" or wish == "off":
        return
    paths = (*_mkl(machine), *_openblas(machine)) if wish == "auto" else (Path(wish).expanduser().absolute(),)
    for path in paths:
        kind = next((kind for kind in ("mkl", "openblas") if kind in path.name), "custom")
        yield BlasCandidate(kind, path, _environment((kind, path), machine, threads))


def choose(machine: MlxMachine, probe: Probe, *, wish: str = "auto", threads: int = 0) -> BlasChoice:
    """Return the first library that computes correctly and faster than the reference. Call it in a thread."""
    if machine.device != "cpu" or machine.system != "linux":
        return BlasChoice(name=f"not needed on {machine.device}")
    rejected: list[tuple[str, str]] = []
    with ThreadPoolExecutor(1, "blas") as beside:
        # The first load on a machine waits for the probes: run two at a time.
        stock = beside.submit(probe, None)
        for candidate in candidates(machine, wish, threads):
            verdict = _usable(candidate) or probe(candidate)
            if verdict.seconds is None:
                rejected.append((str(candidate.path), verdict.problem))
            elif (reference := stock.result().seconds) is not None and verdict.seconds > reference:
                rejected.append((str(candidate.path), "it is slower than the reference BLAS"))
            else:
                name = {"mkl": "MKL", "openblas": "OpenBLAS"}.get(candidate.kind, candidate.path.name)
                return BlasChoice(
                    name,
                    dict(candidate.env),
                    verdict.seconds,
                    rejected=tuple(rejected),
                    streams=_streams(candidate.env, machine, threads),
                )
    return BlasChoice(
        REFERENCE,
        seconds=stock.result().seconds,
        warning=_warning(wish, rejected),
        command="" if wish == "off" else best_command(machine),
        rejected=tuple(rejected),
        streams=min(2, threads or machine.cores),
    )


def _usable(candidate: BlasCandidate) -> ProbeResult | None:
    """Return the problem of a library that needs no probe to be refused, or None."""
    if not candidate.path.is_file():
        return ProbeResult(None, "there is no such file")
    if ":" in str(candidate.path.parent):
        return ProbeResult(None, "the dynamic linker cannot search a folder with a colon in its name")
    return None


def best_command(machine: MlxMachine) -> str:
    """Return the command that installs a fast BLAS here."""
    return MKL_COMMAND if machine.architecture in ("x86_64", "AMD64") else OPENBLAS_COMMAND


def speed_up(choice: BlasChoice, stock: ProbeResult) -> float | None:
    """Return how many times faster than the reference BLAS the choice is; None when not measured."""
    if choice.seconds is None or not stock.seconds:
        return None
    return stock.seconds / max(choice.seconds, 1e-6)


def _warning(wish: str, rejected: list[tuple[str, str]]) -> str:
    if wish == "off":
        return "MLX computes with its reference BLAS, because [plugins.mlx] blas is off"
    if rejected:
        path, problem = rejected[0]
        return f"MLX computes with its slow reference BLAS: {Path(path).name} is unusable ({problem})"
    return "MLX computes with its slow reference BLAS: no fast one is installed"


def _mkl(machine: MlxMachine) -> Iterator[Path]:
    if machine.architecture not in ("x86_64", "AMD64"):
        return
    for folder in machine.folders:
        yield from sorted(folder.glob("libmkl_rt.so.[0-9]*"), reverse=True)


def _openblas(machine: MlxMachine) -> Iterator[Path]:
    arch = {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine.architecture, machine.architecture)
    for pattern in _OPENBLAS:
        path = machine.root / pattern.format(arch=arch)
        if path.is_file():
            yield path


def _environment(candidate: tuple[str, Path], machine: MlxMachine, threads: int) -> dict[str, str]:
    kind, path = candidate
    threads = threads or machine.cores
    # LD_PRELOAD is split at spaces and colons, LD_LIBRARY_PATH at colons only: name the file here, its folder there.
    searched = [str(path.parent), *([machine.library_path] if machine.library_path else [])]
    env = {"LD_PRELOAD": path.name, "LD_LIBRARY_PATH": ":".join(searched)}
    if kind == "mkl":
        env |= {
            "MKL_INTERFACE_LAYER": "LP64",
            "MKL_NUM_THREADS": str(threads),
            # Two cores do more with two streams (see products.py); Intel's threads need their own runtime beside MKL.
            "MKL_THREADING_LAYER": "INTEL"
            if threads > FEW_CORES and (path.parent / "libiomp5.so").exists()
            else "SEQUENTIAL",
        }
    elif kind == "openblas":
        env |= {"OPENBLAS_NUM_THREADS": str(threads if threads > FEW_CORES else 1)}
    return env


def _streams(env: dict[str, str], machine: MlxMachine, threads: int) -> int:
    alone = env.get("MKL_THREADING_LAYER") == "SEQUENTIAL" or env.get("OPENBLAS_NUM_THREADS") == "1"
    return min(2, threads or machine.cores) if alone else 1


def advise(machine: MlxMachine, probe: Probe, *, wish: str = "auto", threads: int = 0) -> BlasAdvice:
    """Return the doctor's advice. Probes libraries that were not probed before: call it in a thread."""
    choice = choose(machine, probe, wish=wish, threads=threads)
    measured = speed_up(choice, probe(None)) if choice.seconds is not None else None
    command = choice.command
    if wish == "off":
        possible = choose(machine, probe, threads=threads)
        command = 'remove blas = "off" from [plugins.mlx]' if possible.name != REFERENCE else best_command(machine)
    return BlasAdvice(choice.name, measured, choice.rejected, choice.warning, command)


class TunedBlas:
    """Chooses the fastest library that a probe accepts. Implements `BlasChooser`."""

    def __init__(self, machine: MlxMachine, probe: Probe) -> None:
        self._machine = machine
        self._probe = probe

    def choose(self, wish: str, threads: int) -> BlasChoice:
        """As the function `choose`."""
        return choose(self._machine, self._probe, wish=wish, threads=threads)

    def advise(self, wish: str, threads: int) -> BlasAdvice:
        """As the function `advise`."""
        return advise(self._machine, self._probe, wish=wish, threads=threads)
