"""Attack: pulls from a hub that accepts connections and never answers. Six of them delayed every list by 28 s."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from tests.conftest import StartDaemon
from tests.servers.ollama_folder import OllamaFolder

from ollmlx.testing.waiting import wait_until

PULLS = 12


class SilentHub:
    """Accepts connections, and answers nothing before it is closed."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self.connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                self.connections.append(self._listener.accept()[0])
            except OSError:
                return


@pytest.fixture
def hub() -> Iterator[SilentHub]:
    silent = SilentHub()
    yield silent
    silent.close()


def test_pulls_from_a_silent_hub_delay_no_other_request(daemon: StartDaemon, hub: SilentHub) -> None:
    one = daemon(fakes=None, settings={"plugins": {"disabled": ["pypi"], "hub": {"endpoint": hub.url}}})
    OllamaFolder(one.models).add("good")
    ended: list[int] = []

    def pull(number: int) -> None:
        one.post("/api/pull", {"model": f"org/model{number}"})
        ended.append(number)

    pulls = [threading.Thread(target=pull, args=(number,)) for number in range(PULLS)]
    for thread in pulls:
        thread.start()
    wait_until(lambda: len(hub.connections) >= PULLS, 60)
    assert [model["name"] for model in one.get("/api/tags").json()["models"]] == ["good:latest"]
    assert one.post("/api/show", {"model": "good"}).status_code == 200
    assert ended == [], "the hub is still waited for"
    for connection in hub.connections:
        connection.close()
    one.stop()
    for thread in pulls:
        thread.join(60)
