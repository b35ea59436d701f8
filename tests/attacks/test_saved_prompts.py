"""Attack: what was asked is read from disk later. Saved prompts outlived their models, also where keys are in use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.conftest import StartDaemon

from ollmlx.testing import wait_until
from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.model, pytest.mark.mlx, pytest.mark.slow]
MODEL = "smollm2:135m"
PROMPT = "The treasure of the pirates lies under the old oak behind the mill. " * 8


def saved_files(server: Daemon) -> list[Path]:
    return sorted((server.state / "caches").rglob("*.safetensors"))


def ask_and_unload(server: Daemon, key: str = "") -> None:
    """Ask once, and unload the model, which saves its prompt caches."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": MODEL, "prompt": PROMPT, "stream": False, "options": {"num_predict": 1}}
    assert server.post("/api/generate", body, headers=headers).status_code == 200
    server.post("/api/generate", {"model": MODEL, "keep_alive": 0}, headers=headers)
    wait_until(lambda: not server.get("/api/ps", headers=headers).json()["models"])


@pytest.mark.parametrize("limit", [None, "64MiB"])
def test_with_keys_no_prompt_is_saved_unless_the_settings_say_so(
    daemon: StartDaemon, smollm2_models: Path, limit: str | None
) -> None:
    storage = {"models": str(smollm2_models), **({"cache_limit": limit} if limit else {})}
    server = daemon(fakes=None, settings={"storage": storage, "security": {"api_keys": ["one-key"]}})
    ask_and_unload(server, "one-key")
    assert bool(saved_files(server)) == bool(limit)


def test_saved_prompts_go_with_their_model_and_by_command(
    daemon: StartDaemon, smollm2_models: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(smollm2_models, models)
    server = daemon(fakes=None, settings={"storage": {"models": str(models)}})
    ask_and_unload(server)
    (file,) = saved_files(server)
    assert file.stat().st_mode & 0o077 == 0
    listed = server.cli("cache", "list").stdout
    assert "smollm2:135m" in listed
    assert "removed" in server.cli("cache", "clear", MODEL).stderr
    assert saved_files(server) == []
    assert server.cli("cache", "clear", MODEL).returncode == 1
    ask_and_unload(server)
    assert saved_files(server)
    assert server.cli("rm", MODEL).returncode == 0
    assert saved_files(server) == []


def test_encrypted_caches_serve_their_daemon_and_are_read_by_nobody_without_its_key(
    daemon: StartDaemon, smollm2_models: Path
) -> None:
    server = daemon(fakes=None, settings={"storage": {"models": str(smollm2_models), "encrypt_caches": True}})
    ask_and_unload(server)
    (file,) = saved_files(server)
    assert b"tokens" not in file.read_bytes()
    assert (server.state / "caches.key").stat().st_mode & 0o077 == 0
    body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 1}
    usage = server.post("/v1/chat/completions", body).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 64
