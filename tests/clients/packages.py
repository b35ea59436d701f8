"""The clients from npm: installed once, by their lock file, into the user's cache."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

NPM = Path(__file__).parent / "npm"
LOCKED = ("package.json", "package-lock.json")
OLDEST_NODE = 20
NO_REGISTRY = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ERR_SOCKET_TIMEOUT|EIDLETIMEOUT|E40[1347]|E50\d"
)
"""Words in npm's output when the registry cannot be reached, or does not serve the packages."""


def node_modules(cache: Path) -> Path:
    """The folder with the installed packages. Skips the test, with the reason, when it cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node {version} is older than {OLDEST_NODE}")
    digest = hashlib.sha256(b"".join((NPM / name).read_bytes() for name in LOCKED)).hexdigest()[:12]
    folder = cache / f"npm-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "npm.lock"):
        if not folder.is_dir():
            for stale in cache.glob("npm-*"):
                shutil.rmtree(stale)
            _install(folder)
    return folder / "node_modules"


def _install(folder: Path) -> None:
    """Install beside the folder and move it into place: a broken-off install is never taken for a whole one."""
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".npm-"))
    try:
        for name in LOCKED:
            shutil.copy(NPM / name, scratch)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
        ran = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False, timeout=240)
        if ran.returncode and NO_REGISTRY.search(ran.stderr):
            pytest.skip(f"the npm registry does not answer: {ran.stderr.strip().splitlines()[0]}")
        assert ran.returncode == 0, ran.stderr
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
