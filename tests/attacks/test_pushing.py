"""Attack: a client publishes the person's models with the person's token. A push made repositories for everybody."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import StartDaemon
from tests.servers.hub import HubServer
from tests.servers.ollama_folder import OllamaFolder, tiny_gguf, usual_layers
from tests.servers.registry import RegistryServer
from tests.servers.tiny import tiny_files

from ollmlx import ModelName
from ollmlx_hub.client import HubAccess
from ollmlx_hub.source import HubSource
from ollmlx_hub.store import MlxStore

REPO = "me/mine"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A models folder with one MLX model."""
    folder = tmp_path / "models"
    for path, data in tiny_files().items():
        file = folder / "mlx" / "me_mine" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def test_no_client_pushes_unless_the_settings_say_so(daemon: StartDaemon, models: Path) -> None:
    with HubServer() as hub:
        hub_table = {"hub": {"endpoint": hub.url, "token": "hf_persons_own_token"}}
        for push, status in ((False, 403), (True, 200)):
            server = daemon(
                fakes=None,
                settings={"storage": {"models": str(models)}, "security": {"push": push}, "plugins": hub_table},
            )
            name = server.get("/api/tags").json()["models"][0]["name"]
            answer = server.post("/api/push", {"model": name, "stream": False})
            assert answer.status_code == status, answer.text
            if not push:
                assert "set push = true in [security]" in server.cli("push", name).stderr
                assert not hub.made
        assert set(hub.made.values()) == {"private"}


@pytest.mark.parametrize("public", [False, True])
async def test_a_new_repository_is_private_unless_asked_otherwise(models: Path, public: bool) -> None:
    store = MlxStore(models / "mlx")
    (model,) = await store.list()
    from huggingface_hub import close_session

    with HubServer() as hub:
        source = HubSource(HubAccess(hub.url, "t"), public=public)
        steps = [step async for step in source.push(model, ModelName.parse("me/other"))]
        assert steps[-1].status == "success"
        assert hub.made == {"me/other": "public" if public else "private"}
        close_session()


def test_a_gguf_model_goes_to_the_registry_of_its_name_and_never_to_the_hub(daemon: StartDaemon) -> None:
    with HubServer() as hub, RegistryServer() as registry:
        server = daemon(
            fakes=None,
            settings={
                "security": {"push": True, "private_hosts": [registry.host]},
                "plugins": {"disabled": ["pypi"], "hub": {"endpoint": hub.url, "token": "hf_persons_own_token"}},
            },
        )
        OllamaFolder(server.models).add("mine", usual_layers(tiny_gguf()))
        name = f"{registry.host}/me/mine"
        assert server.cli("cp", "mine", name).returncode == 0
        pushed = server.cli("push", "--insecure", name)
        assert pushed.returncode == 0, pushed.stderr
        assert list(registry.manifests) == ["me/mine:latest"]
        assert not hub.made
