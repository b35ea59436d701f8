"""A person who switches: a folder that Ollama laid out, used by a daemon and left as it was."""

from __future__ import annotations

import pytest
from tests.conftest import StartDaemon
from tests.servers.ollama_folder import GO_TEMPLATE, OllamaFolder, tiny_gguf, usual_layers
from tests.servers.registry import RegistryServer

pytestmark = pytest.mark.e2e


def test_ollamas_models_are_listed_and_shown_and_stay_as_they_are(daemon: StartDaemon) -> None:
    one = daemon(settings={"plugins": {"disabled": ["hub", "pypi", "llamacpp"]}})
    folder = OllamaFolder(one.models)
    folder.add("llama3.2", usual_layers(tiny_gguf()), tag="1b")
    folder.add("X-GGUF", {"model": tiny_gguf(fill=2)}, place="hf.co/org", tag="Q4_K_M")
    before = folder.contents()

    listed = {model["name"]: model for model in one.get("/api/tags").json()["models"]}
    assert {"llama3.2:1b", "org/X-GGUF:Q4_K_M"} < set(listed)
    assert listed["llama3.2:1b"]["details"]["quantization_level"] == "Q4_K_M"
    shown = one.post("/api/show", {"model": "llama3.2:1b", "verbose": True}).json()
    assert (shown["template"], shown["system"], shown["store"]) == (GO_TEMPLATE, "You are terse.", "ollama")
    assert shown["tensors"] == [{"name": "blk.0.weight", "type": "F32", "shape": [64]}]

    printed = one.cli("show", "hf.co/org/X-GGUF:Q4_K_M")
    assert "store               ollama" in printed.stdout
    assert "pip install 'ollmlx[llamacpp]'" in printed.stdout
    ran = one.cli("run", "llama3.2:1b", "hello")
    assert ran.returncode == 1
    assert "no backend can run llama3.2:1b" in ran.stderr
    assert "pip install 'ollmlx[llamacpp]'" in ran.stderr
    assert folder.contents() == before

    with RegistryServer() as registry:
        registry.add("me/m:latest")
        pulled = one.cli("pull", "--insecure", f"{registry.host}/me/m")
    assert pulled.returncode == 0, pulled.stderr
    assert one.cli("show", f"{registry.host}/me/m", "--system").stdout == "You are terse.\n"
    assert one.cli("cp", f"{registry.host}/me/m", "mine").returncode == 0
    assert one.cli("rm", f"{registry.host}/me/m", "mine").returncode == 0
    assert {name for name in folder.contents() if name.startswith("blobs/")} == {
        name for name in before if name.startswith("blobs/")
    }
