"""Fixtures that the end-to-end tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ollmlx.testing.daemon import Daemon


def stop_daemon_of(state: Path) -> None:
    """Stop the daemon that a command has started in the background, if there is one."""
    lock = state / "ollmlx.lock"
    if lock.exists() and lock.read_text().strip():
        daemon = psutil.Process(int(lock.read_text()))
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)


@pytest.fixture(scope="module")
def daemon_with_fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Start one daemon for a module: a model that repeats its prompt, one that thinks, one that exits in mid-answer."""
    fakes: dict[str, dict[str, Any]] = {
        "parrot": {},
        "thinker": {"think": "let me see"},
        "mortal": {"tokens": 50, "fault": "exit:70@3"},
    }
    with Daemon(tmp_path_factory.mktemp("fakes"), fakes=fakes) as started:
        yield started
