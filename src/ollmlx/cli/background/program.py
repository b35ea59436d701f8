"""Running the programs that control a service manager."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ollmlx.errors import NotFound, OllmlxError

MISSING = 127


class Output(NamedTuple):
    """The result of a program: its exit status, its standard output, its standard error."""

    code: int
    out: str
    err: str


Run = Callable[[Sequence[str]], Output]


def run_program(command: Sequence[str]) -> Output:
    """Run a program to its end. One that is not installed has the status that a shell reports for it.

    Nothing of the caller's folder is run.
    """
    program = _found(command[0])
    if program is None:
        return Output(MISSING, "", f"{command[0]} is not installed")
    whole = [program, *command[1:]]
    done = subprocess.run(whole, capture_output=True, text=True, errors="replace", check=False, cwd="/")
    return Output(done.returncode, done.stdout, done.stderr)


def show_program(command: Sequence[str]) -> int:
    """Run a program on this terminal; return its exit status. Raises NotFound when it is not installed."""
    program = _found(command[0])
    if program is None:
        raise NotFound(f"{command[0]} is not installed")
    return subprocess.run([program, *command[1:]], check=False, cwd="/").returncode


def _found(name: str) -> str | None:
    """Return the path of a program; None also for one that only the caller's folder has."""
    program = shutil.which(name)
    return program if program is not None and Path(program).is_absolute() else None


def checked(run: Run, command: Sequence[str], hint: str | None = None) -> str:
    """Run a program and return its output. Raises OllmlxError with what it said when it fails."""
    done = run(command)
    if done.code:
        said = (done.err.strip() or done.out.strip() or f"exit status {done.code}").splitlines()[0]
        raise OllmlxError(f"{' '.join(command)}: {said}", hint=hint)
    return done.out
