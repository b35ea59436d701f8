"""One GGUF file on two backends: as it is through llama.cpp, imported through MLX."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.helpers import user
from tests.servers.ollama_folder import OllamaFolder, tiny_gguf, usual_layers

from ollmlx.testing.daemon import Daemon

pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")
pytestmark = [pytest.mark.e2e, pytest.mark.mlx, pytest.mark.model, pytest.mark.slow]

MOST = 6
CLOSE = 0.3
"""Nats between two candidates that rounding may swap: llama.cpp rounds activations to 8 bits."""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, smollm2_gguf: Path) -> Iterator[Daemon]:
    """A daemon with the model twice: `as-it-is` and `imported`."""
    drafted = {"from": "as-it-is", "draft": "as-it-is", "parameters": {"draft_num_predict": 6}}
    settings = {"plugins": {"disabled": ["pypi"]}, "models": {"drafted": drafted}}
    one = Daemon(tmp_path_factory.mktemp("gguf"), settings=settings)
    (one.folder / "Modelfile").write_text(f"FROM {smollm2_gguf}\nPARAMETER temperature 0\n")
    with one:
        kept = one.cli("create", "as-it-is", "-f", "Modelfile", "--backend", "llamacpp")
        assert kept.returncode == 0, kept.stderr
        (one.folder / "Over").write_text("FROM as-it-is\nPARAMETER backend mlx\n")
        imported = one.cli("create", "imported", "-f", "Over", timeout=240)
        assert imported.returncode == 0, imported.stderr
        yield one


def answer(daemon: Daemon, model: str, prompt: str, **options: Any) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": user(prompt),
        "stream": False,
        "options": {"temperature": 0, "num_predict": 4, **options},
    }
    told: dict[str, Any] = daemon.post("/api/chat", body).json()
    return told


def test_each_name_has_its_store_and_its_backend(both: Daemon) -> None:
    shown = {name: both.post("/api/show", {"model": name}).json() for name in ("as-it-is", "imported")}
    assert (shown["as-it-is"]["store"], shown["as-it-is"]["backend"]) == ("ollama", "llamacpp")
    assert (shown["imported"]["store"], shown["imported"]["backend"]) == ("mlx", "mlx")


def test_a_draft_model_guesses_and_the_answer_is_the_same(both: Daemon) -> None:
    told = [answer(both, name, "Count to ten.", num_predict=24) for name in ("as-it-is", "drafted")]
    assert told[0]["message"] == told[1]["message"]
    (runner,) = [each for each in both.loaded() if each["name"].startswith("drafted")]
    assert "the draft model guesses 6 tokens at once" in runner["notes"]
    lines = [line for line in both.cli("logs").stdout.splitlines() if "draft acceptance" in line]
    found = re.search(r"\((?: *)(\d+) accepted / +(\d+) generated", lines[-1])
    assert found is not None
    assert int(found[1]) > 10, lines[-1]


def test_a_request_may_name_the_backend(both: Daemon) -> None:
    assert "message" in answer(both, "as-it-is", "Hi", backend="llamacpp")
    refused = answer(both, "as-it-is", "Hi", backend="mlx")
    assert "no backend can run as-it-is" in refused["error"]
    assert "PLG006" in answer(both, "as-it-is", "Hi", backend="none")["code"]


@pytest.fixture(scope="module")
def compared(both: Daemon) -> dict[str, Any]:
    """Both backends measured in one run, as little as possible."""
    sizes = ("--streams", "1", "--rounds", "1", "--tokens", "4", "--prompt-tokens", "20")
    done = both.cli("bench", "imported", "--against-backend", "llamacpp", *sizes, "--json", timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_same_weights_are_measured_on_both_backends_in_one_run(compared: dict[str, Any]) -> None:
    ours, theirs = compared["servers"]
    assert [(one["label"], one["model"]) for one in (ours, theirs)] == [
        ("mlx", "imported"),
        ("llamacpp", "as-it-is:latest"),
    ]
    assert all(one["load_seconds"] > 0 and one["memory_bytes"] > 0 for one in (ours, theirs))


def test_both_begin_most_answers_with_the_same_16_tokens_and_part_only_at_close_calls(compared: dict[str, Any]) -> None:
    found = compared["agreement"]
    assert (found["prompts"], found["tokens"]) == (10, 16)
    assert found["same"] >= MOST, found
    for answer in found["answers"]:
        ours, theirs = answer["prompt_tokens"]
        assert ours == theirs > 0
        assert (answer["gap"] or 0) < CLOSE, answer


def test_a_file_that_llama_cpp_cannot_load_is_explained_and_the_daemon_serves(both: Daemon) -> None:
    folder = OllamaFolder(both.models)
    folder.add("strange", usual_layers(tiny_gguf(architecture="strange")))
    folder.add("hollow", usual_layers(tiny_gguf()))
    strange, hollow = answer(both, "strange", "Hi"), answer(both, "hollow", "Hi")
    assert "does not know the architecture 'strange'" in strange["error"]
    assert "cannot load" in hollow["error"]
    assert "[MDL004]" in strange["error"]
    assert "[MDL003]" in hollow["error"]
    assert "message" in answer(both, "as-it-is", "Hi")


pytest.importorskip("xllamacpp", reason="pip install 'ollmlx[llamacpp]'")

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
