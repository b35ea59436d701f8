"""`ollmlx create` makes models of a folder's GGUF file: as it is, quantised, and with an adapter of safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import StartDaemon
from tests.unit.plugins.llamacpp.test_converter import adapter, model

from ollmlx import read_gguf_header

pytestmark = pytest.mark.e2e


def test_a_folder_becomes_a_model_a_smaller_one_and_one_with_an_adapter(daemon: StartDaemon) -> None:
    server = daemon(settings={"plugins": {"disabled": ["hub", "pypi"]}})
    model(server.folder)
    assert (made := server.cli("create", "plain")).returncode == 0, made.stderr
    assert (made := server.cli("create", "small", "-q", "q4_K_M")).returncode == 0, made.stderr
    assert "quantizing F16 model to Q4_K_M" in made.stderr
    shown = {name: server.post("/api/show", {"model": name}).json() for name in ("plain", "small")}
    assert [each["details"]["quantization_level"] for each in shown.values()] == ["F16", "Q4_K_M"]
    refused = server.cli("create", "again", "-q", "q8_0", "-f", "-", input="FROM small").stderr
    assert "quantization is only supported for F16, BF16 and F32 models, and this one is Q4_K_M" in refused

    adapter(server.folder / "lora", "peft")
    (server.folder / "Modelfile").write_text("FROM small\nADAPTER ./lora\nRENDERER qwen3\nREQUIRES 0.14.0\n")
    assert (made := server.cli("create", "tuned")).returncode == 0, made.stderr
    assert "RENDERER is not used" in made.stderr
    assert "REQUIRES is not used" in made.stderr
    shown["tuned"] = server.post("/api/show", {"model": "tuned"}).json()
    (line,) = [line for line in shown["tuned"]["modelfile"].splitlines() if line.startswith("ADAPTER ")]
    file = Path(line.removeprefix("ADAPTER "))
    assert read_gguf_header(file).metadata["adapter.type"] == "lora"
    assert np.isclose(read_gguf_header(file).metadata["adapter.lora.alpha"], 8)
    assert not any((server.models / ".ollmlx" / "staging").iterdir())

    steps = server.lines("/api/create", {"model": "told", "from": "plain", "renderer": "qwen3", "parser": "qwen3"})
    assert [step["status"].partition(":")[0] for step in steps[:2]] == ["RENDERER is not used", "PARSER is not used"]
