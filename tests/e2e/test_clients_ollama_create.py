"""The official Ollama client makes models from files and over one another. No runner starts: the weights are tiny."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from tests.servers.tiny import safetensors, tiny_files

from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.clients]

WEIGHTS = 8 * 1024 * 1024
TEMPLATE = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the real store."""
    plugins = {"plugins": {"disabled": ["pypi", "ollama_store"]}}
    with Daemon(tmp_path_factory.mktemp("daemon"), fakes={}, settings=plugins) as started:
        yield started


@pytest.fixture
def client(server: Daemon) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url, trust_env=False) as made:
        yield made


def uploaded(client: ollama.Client, folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """The digests of files, each uploaded as the client does it."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: client.create_blob(folder / name) for name in files}


def blocks(folder: Path) -> int:
    """Bytes that a folder takes on disk; a file with two names counts once."""
    found = {(stat.st_dev, stat.st_ino): stat.st_blocks for stat in (path.stat() for path in folder.rglob("*"))}
    return 512 * sum(found.values())


def test_a_model_from_files_and_one_over_it_that_costs_no_copy_of_the_weights(
    server: Daemon, client: ollama.Client, tmp_path: Path
) -> None:
    files = uploaded(client, tmp_path / "weights", tiny_files(weights=WEIGHTS))
    steps = [step.status for step in client.create("made", files=files, stream=True)]
    assert steps[-2:] == ["writing manifest", "success"]
    before = blocks(server.models)
    assert before > WEIGHTS
    tensor = safetensors({"a": ("F16", (2,), 4)})
    adapters = uploaded(client, tmp_path / "lora", {"adapters.safetensors": tensor, "adapter_config.json": b"{}"})
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Arr!"}]
    laid_over: dict[str, Any] = {
        "system": "You are a pirate.",
        "template": TEMPLATE,
        "parameters": {"temperature": 0.5, "stop": ["a", "b\n"]},
        "messages": turns,
        "license": ["MIT", "and more"],
    }
    assert client.create("derived", from_="made", adapters=adapters, **laid_over).status == "success"
    assert blocks(server.models) - before < 64 * 1024
    shown = server.post("/api/show", {"model": "derived"}).json()
    assert {key: shown[key] for key in ("system", "template", "messages", "license")} == {
        **{key: laid_over[key] for key in ("system", "template", "messages")},
        "license": "MIT\nand more",
    }
    assert shown["details"]["parent_model"] == "made:latest"
    assert f"ADAPTER {server.models}" in shown["modelfile"]
    assert shown["parameters"].split() == ["temperature", "0.5", "stop", '"a"', "stop", r'"b\n"']
    client.delete("made")
    client.delete("derived")
