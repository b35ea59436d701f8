"""Programs that are tested against the daemon: installed once, by their lock files, into the user's cache.

A lock file has the sha512 or sha256 of every package, which npm and pip check.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

NPM = Path(__file__).parent / "npm"
AGENTS = Path(__file__).parent / "agents"
AIDER = Path(__file__).parent / "aider"
QWEN = Path(__file__).parent / "qwen"
LOCKED = ("package.json", "package-lock.json")
OLDEST_NODE = 20
NO_REGISTRY = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ERR_SOCKET_TIMEOUT|EIDLETIMEOUT|E40[1347]|E50\d"
)
"""Words in npm's output when the registry cannot be reached, or does not serve the packages."""


NO_INDEX = re.compile(r"No matching distribution|Could not find a version|ConnectionError|Max retries exceeded")
"""Words in pip's output when the index cannot be reached, or does not serve the packages."""

_SYSTEM = {"Linux": "linux", "Darwin": "darwin"}
_MACHINE = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}
_TRIPLES = {
    "linux-x64": "x86_64-unknown-linux-musl",
    "linux-arm64": "aarch64-unknown-linux-musl",
    "darwin-x64": "x86_64-apple-darwin",
    "darwin-arm64": "aarch64-apple-darwin",
}


def node_modules(cache: Path, lock: Path = NPM) -> Path:
    """The folder with the installed packages. Skips the test, with the reason, when it cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"node {version} is older than {OLDEST_NODE}")
    locked = [lock / name for name in LOCKED]

    def install(scratch: Path) -> None:
        for file in locked:
            shutil.copy(file, scratch)
        command: list[str | Path] = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
        _run(command, scratch, NO_REGISTRY, "the npm registry does not answer")

    return _installed(cache, lock.name, locked, install) / "node_modules"


def agent_programs(cache: Path) -> dict[str, Path]:
    """The programs of the coding agents from npm, by name: those that exist for this machine."""
    packages = node_modules(cache, AGENTS)
    here = f"{_SYSTEM.get(platform.system(), '?')}-{_MACHINE.get(platform.machine(), '?')}"
    programs = {
        "claude": packages / f"@anthropic-ai/claude-code-{here}" / "claude",
        "codex": packages / f"@openai/codex-{here}" / "vendor" / _TRIPLES.get(here, "?") / "bin" / "codex",
        "opencode": packages / f"opencode-{here}-baseline" / "bin" / "opencode",
    }
    return {name: program for name, program in programs.items() if program.is_file()}


def qwen_program(cache: Path) -> Path:
    """The program of Qwen Code. Skips the test when it cannot be had."""
    return node_modules(cache, QWEN) / ".bin" / "qwen"


def aider_python(cache: Path) -> Path:
    """The Python that has aider, a virtual environment of its own. Skips the test when it cannot be had."""
    lock = AIDER / "requirements.txt"

    def install(scratch: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", scratch], check=True, timeout=240)
        pip: list[str | Path] = [
            scratch / "bin" / "python",
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
        ]
        _run([*pip, "--require-hashes", "-r", lock], scratch, NO_INDEX, "the package index does not answer")

    return _installed(cache, "aider", [lock], install) / "bin" / "python"


def _installed(cache: Path, name: str, locked: list[Path], install: Callable[[Path], None]) -> Path:
    """Return the folder of one lock file. It is made beside its place: a broken-off install is never taken for one."""
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in locked)).hexdigest()[:12]
    folder = cache / f"{name}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}.lock"):
        if not folder.is_dir():
            for stale in cache.glob(f"{name}-*"):
                shutil.rmtree(stale)
            scratch = Path(tempfile.mkdtemp(dir=cache, prefix=f".{name}-"))
            try:
                install(scratch)
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _run(command: list[str | Path], folder: Path, unreachable: re.Pattern[str], reason: str) -> None:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=400)
    if ran.returncode and unreachable.search(ran.stderr):
        pytest.skip(f"{reason}: {ran.stderr.strip().splitlines()[0]}")
    assert ran.returncode == 0, ran.stderr
