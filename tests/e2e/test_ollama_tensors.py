"""A real model in the layers of Ollama's own MLX engine: pulled, listed, run, copied, made anew and removed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.conftest import StartDaemon
from tests.e2e.helpers import user
from tests.servers.ollama_tensors import tensor_layers
from tests.servers.registry import RegistryServer

pytestmark = [pytest.mark.e2e, pytest.mark.mlx, pytest.mark.model, pytest.mark.slow]

QUESTION = user("What is the opposite of hot?")
GREEDY = {"temperature": 0, "num_predict": 12}


def test_a_model_of_ollamas_mlx_engine_says_what_the_same_weights_of_mlx_lm_say(
    daemon: StartDaemon, smollm2: Path
) -> None:
    settings = {"plugins": {"disabled": ["pypi"]}, "security": {"private_hosts": ["127.0.0.1", "localhost"]}}
    one = daemon(fakes=None, settings=settings)
    shutil.copytree(smollm2, one.models / "mlx" / smollm2.name, copy_function=os.link)
    with RegistryServer() as registry:
        layers = tensor_layers(smollm2)
        registry.add("me/smol:mlx", {**layers, "system": b"You are terse."}, model_format="safetensors")
        name = f"{registry.host}/me/smol:mlx"
        pulled = one.post("/api/pull", {"model": name, "insecure": True}).text.splitlines()
    steps = [json.loads(line) for line in pulled]
    assert steps[-1]["status"] == "success", steps[-1]
    assert sum(step.get("digest") == "sha256:model" for step in steps) < len(layers["tensor"]) + 20

    listed = {model["name"]: model for model in one.get("/api/tags").json()["models"]}[name]
    assert listed["details"]["format"] == "safetensors"
    shown = one.post("/api/show", {"model": name}).json()
    assert (shown["store"], shown["backend"], shown["system"]) == ("ollama", "mlx", "You are terse.")
    assert shown["model_info"]["general.parameter_count"] == 134515008

    asked = {"messages": QUESTION, "stream": False, "options": GREEDY}
    told = [{"role": "system", "content": "You are terse."}, *QUESTION]
    expected = one.post("/api/chat", {**asked, "model": "smollm2:135m", "messages": told}).json()
    answered = one.post("/api/chat", {**asked, "model": name}).json()
    assert answered["message"]["content"] == expected["message"]["content"]
    assert answered["prompt_eval_count"] == expected["prompt_eval_count"]
    assert {each["backend"] for each in one.loaded()} == {"mlx"}

    made = one.post("/api/create", {"model": "mine", "from": name, "system": "Be brief.", "stream": False})
    assert made.json()["status"] == "success", made.text
    assert one.post("/api/show", {"model": "mine"}).json()["system"] == "Be brief."
    assert one.cli("cp", "mine", "other").returncode == 0
    assert one.cli("rm", name, "mine").returncode == 0
    links = one.folder.rglob("model-00001-of-*.safetensors")
    assert any(link.is_symlink() for link in links)
    assert one.cli("rm", "other").returncode == 0
    assert not any((one.models / "blobs").iterdir())
