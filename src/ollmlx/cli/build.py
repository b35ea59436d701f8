"""The build that runs: its version, the commit it was made from, and the extras that are installed."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

from packaging.requirements import Requirement

from ollmlx import __version__

COMMIT = "COMMIT"
"""The file in the package that a build writes (`hatch_build.py`)."""


def version_text() -> str:
    """Return the line of `--version`, as Ollama has it, and one for reports of faults."""
    extras = ", ".join(installed_extras()) or "none"
    return f"ollmlx version {__version__}\ncommit {commit()}; extras: {extras}; Python {platform.python_version()}"


def commit() -> str:
    """Return the commit of a built distribution or of the checkout that runs; `unknown` for neither."""
    written = files("ollmlx").joinpath(COMMIT)
    if written.is_file():
        return written.read_text("ascii").strip()
    checkout = Path(__file__).parents[3]
    git = shutil.which("git") if (checkout / ".git").exists() else None
    if git is None:
        return "unknown"
    command = [git, "-C", str(checkout), "rev-parse", "--short=10", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    return f"{found.stdout.strip()} (a checkout)" if found.returncode == 0 else "unknown"


def installed_extras() -> list[str]:
    """Return the extras of ollmlx whose packages are all installed."""
    try:
        about = distribution("ollmlx")
    except PackageNotFoundError:
        return []
    return [extra for extra in about.metadata.get_all("Provides-Extra") or () if _is_installed(about, extra)]


def _is_installed(about: Distribution, extra: str) -> bool:
    marked = [each for line in about.requires or () if (each := Requirement(line)).marker is not None]
    own = [each for each in marked if _applies(each, extra) and not _applies(each, "")]
    return bool(own) and all(map(_has, own))


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _has(requirement: Requirement) -> bool:
    try:
        found = distribution(requirement.name)
    except PackageNotFoundError:
        return False
    return all(_is_installed(found, extra) for extra in requirement.extras)
