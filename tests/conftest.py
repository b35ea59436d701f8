"""What every test has: guards against leaks, a free port."""

from __future__ import annotations

import socket

import pytest

pytest_plugins = ["ollmlx.testing.guards"]


@pytest.fixture(autouse=True)
def guarded(no_leaks: None) -> None:
    """Nothing is left behind."""


@pytest.fixture
def free_port() -> int:
    """A TCP port on the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
