"""Where downloaded packages are kept, so that a second pull downloads nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ollmlx_pypi.packages import Package

BLOCK = 1 << 20
STAGING = ".download-"
"""Begins the name of a folder in which a package arrives; the fetching process comes next: `.download-77-x`."""


def cache_folder(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """The user's cache folder for ollmlx."""
    if platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ollmlx"
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ollmlx"


def cached_wheel(package: Package, folder: Path) -> Path | None:
    """The package's file in the cache, when it is there and right; a wrong one is removed."""
    path = folder / "packages" / package.wheel
    if not path.is_file():
        return None
    if path.stat().st_size == package.wheel_size and sha256_of(path) == package.wheel_sha256:
        return path
    path.unlink()
    return None


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that live no more had begun to download into a folder."""
    for path in folder.glob(f"{STAGING}*"):
        pid = path.name.removeprefix(STAGING).partition("-")[0]
        if not (pid.isdecimal() and _lives(int(pid))):
            shutil.rmtree(path, ignore_errors=True)


def _lives(pid: int) -> bool:
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()
