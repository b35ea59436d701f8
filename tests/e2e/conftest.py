"""Fixtures that the end-to-end tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ollmlx.testing.daemon import Daemon


@pytest.fixture(scope="module")
def daemon_with_fakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Start one daemon for a module: a model that repeats its prompt, one that thinks, one that exits in mid-answer."""
    fakes: dict[str, dict[str, Any]] = {
        "parrot": {},
        "thinker": {"think": "let me see"},
        "mortal": {"tokens": 50, "fault": "exit:70@3"},
    }
    started = Daemon(tmp_path_factory.mktemp("fakes"), fakes=fakes)
    try:
        yield started.start()
    finally:
        started.stop()
