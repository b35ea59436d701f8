"""A models folder of Ollama's, used by a daemon and left unchanged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.conftest import StartDaemon
from tests.e2e.helpers import user
from tests.servers.ollama_folder import GO_TEMPLATE, OllamaFolder, tiny_gguf, usual_layers
from tests.servers.registry import RegistryServer

pytestmark = pytest.mark.e2e

INSTALL = "pip install 'ollmlx[llamacpp]'"


def without(module: str, folder: Path) -> dict[str, str]:
    """Variables of a Python in which a module is not installed."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n", encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def test_ollamas_models_are_listed_and_shown_without_llama_cpp_and_stay_as_they_are(
    daemon: StartDaemon, tmp_path: Path
) -> None:
    settings = {"plugins": {"disabled": ["hub", "pypi"]}, "security": {"private_hosts": ["127.0.0.1", "localhost"]}}
    one = daemon(settings=settings, env=without("xllamacpp", tmp_path))
    folder = OllamaFolder(one.models)
    folder.add("llama3.2", usual_layers(tiny_gguf()), tag="1b")
    folder.add("X-GGUF", {"model": tiny_gguf(fill=2)}, origin="hf.co/org", tag="Q4_K_M")
    before = folder.contents()

    listed = {model["name"]: model for model in one.get("/api/tags").json()["models"]}
    assert {"llama3.2:1b", "org/X-GGUF:Q4_K_M"} < set(listed)
    assert listed["llama3.2:1b"]["details"]["quantization_level"] == "Q4_K_M"
    shown = one.post("/api/show", {"model": "llama3.2:1b", "verbose": True}).json()
    assert (shown["template"], shown["system"], shown["store"]) == (GO_TEMPLATE, "You are terse.", "ollama")
    assert shown["tensors"] == [{"name": "blk.0.weight", "type": "F32", "shape": [64]}]

    printed = one.cli("show", "hf.co/org/X-GGUF:Q4_K_M")
    assert "store               ollama" in printed.stdout
    assert INSTALL in printed.stdout
    ran = one.cli("run", "llama3.2:1b", "hello")
    assert ran.returncode == 1
    assert "no backend can run llama3.2:1b" in ran.stderr
    assert "llama.cpp is not installed" in ran.stderr
    assert INSTALL in ran.stderr
    report = json.loads(one.cli("doctor", "--deep", "--json", "--config", str(one.config)).stdout)
    (missing,) = [finding for finding in report["findings"] if finding["code"] == "ENV021"]
    (command,) = missing["commands"]
    assert command.endswith(INSTALL)  # by the pip of this installation
    assert missing["evidence"] == ["llama3.2:1b", "org/X-GGUF:Q4_K_M"]
    assert {finding["code"] for finding in report["findings"]}.isdisjoint({"DOC001", "MDL005"})
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


TEMPLATE = (
    b"{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
    b"{{ if .Prompt }}{{ .Prompt }}{{ end }}"
)
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
LAID_OUT_NS = 1_700_000_000 * 10**9


@pytest.mark.model
@pytest.mark.slow
def test_a_real_model_of_ollamas_runs_where_it_lies_and_its_folder_stays_as_it_was(
    daemon: StartDaemon, smollm2_gguf: Path
) -> None:
    pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
    one = daemon(fakes=None)
    folder = OllamaFolder(one.models)
    params = b'{"stop":["<|im_start|>","<|im_end|>"],"temperature":0,"num_predict":8,"num_gpu":99}'
    layers = usual_layers(smollm2_gguf.read_bytes(), template=TEMPLATE, params=params, system=SYSTEM.encode())
    folder.add("smollm2", layers, tag="135m", file_type="Q4_1")
    for path in folder.root.rglob("*"):
        os.utime(path, ns=(LAID_OUT_NS, LAID_OUT_NS))
    before = folder.contents()
    assert len(before) == 12, "four folders of manifests, one of blobs; a manifest and six blobs"

    listed = {model["name"]: model for model in one.get("/api/tags").json()["models"]}["smollm2:135m"]
    assert listed["details"]["quantization_level"] == "Q4_1"
    shown = one.post("/api/show", {"model": "smollm2:135m"}).json()
    assert (shown["store"], shown["backend"]) == ("ollama", "llamacpp")
    assert (shown["template"], shown["system"]) == (TEMPLATE.decode(), SYSTEM)
    assert shown["license"] == "Apache License, Version 2.0"
    parameters = [" ".join(line.split()) for line in shown["parameters"].splitlines()]
    assert sorted(parameters) == ["num_predict 8", 'stop "<|im_end|>"', 'stop "<|im_start|>"', "temperature 0"]

    question = user("What is the opposite of hot?")
    asked = {"model": "smollm2:135m", "messages": question, "stream": False}
    answered = one.post("/api/chat", asked).json()
    assert "cold" in answered["message"]["content"]
    assert answered["eval_count"] == 8, "its own num_predict"
    ran = one.cli("run", "smollm2:135m", "What is the opposite of hot?")
    assert "cold" in ran.stdout
    (loaded,) = one.loaded()
    assert (loaded["backend"], loaded["digest"]) == ("llamacpp", listed["digest"])
    assert folder.contents() == before
