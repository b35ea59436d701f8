"""The packages that a release installs: the versions of constraints.txt, with the hashes of their files."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
INDEX: Final = "https://pypi.org/simple"  # never a mirror's: its addresses would stand in what others install


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """One package, with the SHA-256 of each wheel by its address. marker: where it is installed, "" for everywhere."""

    name: str
    version: str
    marker: str
    wheels: dict[str, str]


def lock(*extras: str, python: str) -> list[LockedPackage]:
    """Resolve ollmlx with extras, for every platform. Raises CalledProcessError, after uv's words on standard error."""
    options = [
        "--universal",
        "--no-build",
        "--no-config",
        "--quiet",
        "--format=pylock.toml",
        f"--default-index={INDEX}",
    ]
    wanted = [f"--python-version={python}", *(f"--extra={extra}" for extra in extras)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pylock.toml"
        files = ["pyproject.toml", "--constraints=constraints.txt", f"--output-file={output}"]
        command = [sys.executable, "-m", "uv", "pip", "compile", *files, *options, *wanted]
        subprocess.run(command, cwd=ROOT, check=True)
        return packages(tomllib.loads(output.read_text("utf-8")))


def packages(pylock: dict[str, Any]) -> list[LockedPackage]:
    """Return the packages of a lock file of PEP 751."""
    return [
        LockedPackage(
            name=each["name"],
            version=each["version"],
            marker=each.get("marker", ""),
            wheels={wheel["url"]: wheel["hashes"]["sha256"] for wheel in each["wheels"]},
        )
        for each in pylock["packages"]
    ]
