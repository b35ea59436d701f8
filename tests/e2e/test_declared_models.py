"""`[models."NAME"]` in a running daemon, and what SIGHUP takes over."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import StartDaemon
from tests.e2e.helpers import user
from tests.unit.plugins.llamacpp.test_converter import adapter, model

from ollmlx import read_gguf_header
from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon, as_toml, merged

pytestmark = pytest.mark.e2e
BOT = {
    "from": "parrot",
    "system": "You are a pirate who says arr.",
    "parameters": {"num_predict": 2, "stop": ["never"]},
    "context_length": 512,
    "parallel": 2,
    "preload": True,
    "pin": True,
}
SHORT = {"from": "other", "keep_alive": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with two models and two assistants over them."""
    fakes: dict[str, dict[str, Any]] = {"parrot": {}, "other": {}}
    settings = {"models": {"bot:1": BOT, "short": SHORT}, "aliases": {"polly": "parrot"}}
    with Daemon(tmp_path_factory.mktemp("declared"), fakes=fakes, settings=settings) as started:
        yield started


def ps(server: Daemon) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in server.loaded()}


def chat(server: Daemon, model: str, text: str) -> dict[str, Any]:
    body = {"model": model, "messages": user(text), "stream": False}
    answer: dict[str, Any] = server.post("/api/chat", body).json()
    return answer


def test_a_preloaded_assistant_is_there_before_anybody_asked_and_a_pinned_one_stays(server: Daemon) -> None:
    wait_until(lambda: "bot:1" in ps(server))
    loaded = ps(server)["bot:1"]
    assert loaded["context_length"] == 512
    assert loaded["expires_at"] > "2200"
    assert server.post("/api/generate", {"model": "bot:1", "keep_alive": 0, "prompt": "x", "stream": False}).is_success
    assert "bot:1" in ps(server), "a request's keep_alive does not unload what is pinned"


def test_an_assistant_is_listed_shown_and_answers_under_its_own_name(server: Daemon) -> None:
    names = {model["name"] for model in server.get("/api/tags").json()["models"]}
    assert {"bot:1", "short:latest", "parrot:latest", "polly:latest"} <= names
    assert {"bot:1", "short"} <= {
        model["id"].removesuffix(":latest") for model in server.get("/v1/models").json()["data"]
    }
    shown = server.post("/api/show", {"model": "bot:1"}).json()
    assert shown["system"] == BOT["system"]
    assert "num_predict" in shown["parameters"]
    assert chat(server, "bot:1", "hello")["model"] == "bot:1"


def hang_up(server: Daemon, changes: dict[str, Any]) -> str:
    """Change the settings file, send SIGHUP; what the daemon's log says from then on, once it has looked."""
    before = len(server.log_text)
    server.config.write_text(as_toml(merged(server.settings, changes)), encoding="utf-8")
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "settings" in server.log_text[before:])
    wait_until(lambda: server.get("/livez").is_success)  # the whole reload is one step of the event loop
    return server.log_text[before:]


def test_sighup_takes_over_what_it_can_and_says_what_needs_a_restart(server: Daemon) -> None:
    said = hang_up(
        server,
        {
            "models": {"new": {"from": "parrot", "parameters": {"num_predict": 1}}},
            "aliases": {"macaw": "parrot"},
            "security": {"api_keys": ["k" * 32]},
            "memory": {"share": 0.5},
        },
    )
    assert "settings: [memory] share: " in said
    assert "needs a restart" in said
    assert "settings: [security] api_keys: changed (********)" in said
    assert "k" * 32 not in server.log_text
    assert server.get("/api/tags").status_code == 401, "a key is asked for from now on"
    key = {"Authorization": f"Bearer {'k' * 32}"}
    names = {model["name"] for model in server.get("/api/tags", headers=key).json()["models"]}
    assert {"new:latest", "macaw:latest", "bot:1"} <= names
    body = {"model": "new", "prompt": "one two", "stream": False}
    assert server.post("/api/generate", body, headers=key).json()["response"] == "one"
    assert "settings: [security] api_keys" in hang_up(server, {})
    assert server.get("/api/tags").status_code == 200


def test_settings_that_cannot_be_used_change_nothing(server: Daemon) -> None:
    said = hang_up(server, {"server": {"hosst": "x"}})
    assert "settings are not reloaded: " in said
    assert "did you mean 'host'?" in said
    assert chat(server, "bot:1", "hello there you")["message"]["content"] == "hello there"
    assert "settings: nothing changed" in hang_up(server, {})


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
