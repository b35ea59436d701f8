"""Templates in Go's language with a real model on llama.cpp and on MLX, from a Modelfile and from a request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ollmlx.testing.daemon import Daemon

pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
pytestmark = [pytest.mark.e2e, pytest.mark.mlx, pytest.mark.model, pytest.mark.slow]

TEMPLATE = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path) -> Iterator[Daemon]:
    """A daemon with a model that a Modelfile with a template made, for llama.cpp and for MLX."""
    one = Daemon(tmp_path_factory.mktemp("go"), settings={"plugins": {"disabled": ["pypi"]}})
    modelfile = f'FROM {smollm2_gguf}\nSYSTEM Be brief.\nTEMPLATE """{TEMPLATE}"""\n'
    (one.folder / "Modelfile").write_text(modelfile)
    with one:
        for name, backend in (("kept", "llamacpp"), ("imported", "mlx")):
            made = one.cli("create", name, "-f", "Modelfile", "--backend", backend, timeout=240)
            assert made.returncode == 0, made.stderr
        yield one


@pytest.mark.parametrize("model", ["kept", "imported"])
def test_a_modelfiles_template_and_a_requests_make_the_prompt(served: Daemon, model: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": False}
    shown = served.post("/api/chat", {**body, "_debug_render_only": True}).json()
    assert shown["_debug_info"]["rendered_template"] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    answer = served.post("/api/chat", {**body, "options": {"num_predict": 8, "temperature": 0}}).json()
    assert answer["message"]["content"].strip()
    assert "<|im_end|>" not in answer["message"]["content"]
    asked = {"model": model, "prompt": "hi", "template": "{{ .System }}|{{ .Prompt }}|", "_debug_render_only": True}
    assert served.post("/api/generate", asked).json()["_debug_info"]["rendered_template"] == "Be brief.|hi|"


@pytest.mark.parametrize("model", ["kept", "imported"])
def test_tools_that_the_template_would_drop_are_refused(served: Daemon, model: str) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    messages = [{"role": "user", "content": "hi"}]
    refused = served.post("/api/chat", {"model": model, "messages": messages, "tools": tools, "stream": False})
    assert refused.status_code == 400
    assert "does not support tools" in refused.text
    assert "tools" not in served.post("/api/show", {"model": model}).json()["capabilities"]
