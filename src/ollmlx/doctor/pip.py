"""The pip that installs into the Python which runs ollmlx: the one in the terminal may belong to another."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path


def own_pip(
    commands: Iterable[str],
    *,
    python: str = sys.executable,
    which: Callable[[str], str | None] = shutil.which,
    has_pip: Callable[[], bool] = lambda: find_spec("pip") is not None,
) -> tuple[str, ...]:
    """Commands with `pip …` written so that it means `python`: as it is where the terminal's pip lies beside it, else
    `python -m pip`, else by uv, which makes environments without pip."""
    return tuple(_written(one, python, which, has_pip) if one.startswith("pip ") else one for one in commands)


def _written(command: str, python: str, which: Callable[[str], str | None], has_pip: Callable[[], bool]) -> str:
    found = which("pip")
    if found is not None and Path(found).parent == Path(python).parent:
        return command
    if not has_pip() and which("uv") is not None:
        return f"uv {command} --python {shlex.quote(python)}"
    return f"{shlex.quote(python)} -m {command}"
