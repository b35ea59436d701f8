"""The choice of a BLAS library for children on Linux CPUs. Metal and CUDA need none.

The stock `mlx-cpu` wheel links the reference BLAS, which is 10 to 50 times slower than a tuned one. BLAS symbols can be
interposed, so the choice is made in the child's environment. A library is only used after a child process has computed
with it: one that is built for another CPU ends its process with an illegal instruction.

OpenBLAS comes with `ollmlx[cpu]` (`openblas.py`). Where a person has installed MKL, it comes second on AMD processors
with AVX-512, which it does not use there: OpenBLAS is 2.5 times as fast with many rows of input. Elsewhere it comes
first: OpenBLAS has no kernels for one row in AVX2, and takes 1.4 times as long for a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ollmlx_mlx.daemon.machine import BlasChoice, BlasChooser, MlxMachine
from ollmlx_mlx.linux_cpu.openblas import PACKAGED, PlainCopies

COMMAND: Final = "pip install 'ollmlx[cpu]'"
REFERENCE: Final = "reference BLAS"
FAST: Final = 2.0
"""Times as fast as the reference, from which a library counts as fast. Tuned ones are 10 to 50 times as fast."""
FEW_CORES: Final = 2
_X86: Final = ("x86_64", "AMD64")

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
    """A BLAS library: `kind` is `mkl`, `openblas` or `custom`; `env` makes a child use it.

    `packaged`: the library of which `path` is to be a copy.
    """

    kind: str
    path: Path
    env: dict[str, str] = field(default_factory=dict)
    packaged: Path | None = None


Probe = Callable[[BlasCandidate], str]
"""Computes with a library in a child process, or recalls that it has. Returns why it is unusable, else nothing."""

Measure = Callable[[Mapping[str, str]], float | None]
"""Returns the seconds that a product takes in a child process with these variables. None: it does not compute."""


def candidates(machine: MlxMachine, wish: str, threads: int, copies: PlainCopies) -> Iterator[BlasCandidate]:
    """Yield the libraries to probe, best first. `wish` is the setting: `auto`, `off` or a path."""
    if not _needed(machine) or wish == "off":
        return
    if wish == "auto":
        paths = [*_packaged(machine), *_mkl(machine), *_openblas(machine)]
        if not (machine.avx512 and "AMD" in machine.cpu):
            paths.sort(key=lambda path: "mkl" not in path.name)
    else:
        paths = [Path(wish).expanduser().absolute()]
    for path in paths:
        kind = next((kind for kind in ("mkl", "openblas") if kind in path.name), "custom")
        used = copies.path(path) if path.name == PACKAGED else path
        env = _environment(kind, used, machine, threads)
        yield BlasCandidate(kind, used, env, path if used != path else None)


class TunedBlas(BlasChooser):
    """Chooses the first library that computes correctly: each of them is many times faster than the reference.

    No time decides about it: on a machine that is busy, or reads the library from a slow disk, any library looks slow.
    """

    def __init__(self, machine: MlxMachine, probe: Probe, measure: Measure, copies: PlainCopies) -> None:
        self._machine = machine
        self._probe = probe
        self._measure = measure
        self._copies = copies

    def choose(self, wish: str, threads: int) -> BlasChoice:
        machine = self._machine
        if not _needed(machine):
            return BlasChoice(name=f"not needed on {machine.device}")
        rejected: list[tuple[str, str]] = []
        for candidate in candidates(machine, wish, threads, self._copies):
            problem = self._problem(candidate)
            if not problem:
                return BlasChoice(
                    {"mkl": "MKL", "openblas": "OpenBLAS"}.get(candidate.kind, candidate.path.name),
                    candidate.env,
                    rejected=tuple(rejected),
                    streams=_streams(candidate.env, machine, threads),
                    library=candidate.path,
                )
            rejected.append((str(candidate.packaged or candidate.path), problem))
        return BlasChoice(
            REFERENCE,
            warning=_warning(wish, rejected),
            command="" if wish == "off" else COMMAND,
            rejected=tuple(rejected),
            streams=min(2, threads or machine.cores),
        )

    def advise(self, wish: str, threads: int) -> BlasChoice:
        choice = self.choose(wish, threads)
        if not _needed(self._machine):
            return choice
        reference = self._measure({})
        chosen = reference if choice.name == REFERENCE else self._measure(choice.env)
        if not reference or not chosen:
            return choice
        choice = replace(choice, speed_up=reference / chosen)
        if reference / chosen >= FAST:
            return choice
        warning = choice.warning or f"{choice.name} is hardly faster than the reference BLAS of MLX"
        return replace(choice, warning=warning, command=self._faster(choice, wish, threads))

    def _faster(self, choice: BlasChoice, wish: str, threads: int) -> str:
        """Return what a person can do for a faster library than this one."""
        if wish != "auto" and self.choose("auto", threads).name not in (REFERENCE, choice.name):
            return f'remove blas = "{wish}" from [plugins.mlx]'
        return COMMAND

    def _problem(self, candidate: BlasCandidate) -> str:
        """Return why a library is unusable, else nothing. A copy that is, is made anew the next time."""
        if candidate.packaged is not None and (problem := self._copies.make(candidate.packaged)):
            return problem
        problem = _unusable(candidate) or self._probe(candidate)
        if problem and candidate.packaged is not None:
            with suppress(OSError):  # a file without a name cannot be removed
                candidate.path.unlink()
        return problem


def _needed(machine: MlxMachine) -> bool:
    return machine.device == "cpu" and machine.system == "linux"


def _unusable(candidate: BlasCandidate) -> str:
    """Return the problem of a library that needs no probe to be refused, else nothing."""
    if not candidate.path.is_file():
        return "there is no such file"
    if ":" in str(candidate.path.parent):
        return "the dynamic linker cannot search a folder with a colon in its name"
    return ""


def _warning(wish: str, rejected: list[tuple[str, str]]) -> str:
    if wish == "off":
        return "MLX computes with its reference BLAS, because [plugins.mlx] blas is off"
    if rejected:
        path, problem = rejected[0]
        return f"MLX computes with its slow reference BLAS: {Path(path).name} is unusable ({problem})"
    return "MLX computes with its slow reference BLAS: no fast one is installed"


def _packaged(machine: MlxMachine) -> Iterator[Path]:
    yield from (folder / PACKAGED for folder in machine.folders if (folder / PACKAGED).is_file())


def _mkl(machine: MlxMachine) -> Iterator[Path]:
    for folder in machine.folders if machine.architecture in _X86 else ():
        yield from sorted(folder.glob("libmkl_rt.so.[0-9]*"), reverse=True)


def _openblas(machine: MlxMachine) -> Iterator[Path]:
    arch = {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine.architecture, machine.architecture)
    for pattern in _OPENBLAS:
        path = machine.root / pattern.format(arch=arch)
        if path.is_file():
            yield path


def _environment(kind: str, path: Path, machine: MlxMachine, threads: int) -> dict[str, str]:
    threads = threads or machine.cores
    # LD_PRELOAD is split at spaces and colons, LD_LIBRARY_PATH at colons only: name the file here, its folder there.
    searched = [str(path.parent), *([machine.library_path] if machine.library_path else [])]
    env = {"LD_PRELOAD": path.name, "LD_LIBRARY_PATH": ":".join(searched)}
    if kind == "mkl":
        env |= {
            "MKL_INTERFACE_LAYER": "LP64",
            "MKL_NUM_THREADS": str(threads),
            # Two cores do more with two streams (see layers.py); Intel's threads need their own runtime beside MKL.
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
