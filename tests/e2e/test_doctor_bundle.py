"""`ollmlx doctor --bundle`: it has what is needed to help, without secrets and prompts."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ollmlx.testing.daemon import Daemon

pytestmark = pytest.mark.e2e
KEY = "key-of-the-house-51f2"
TOKEN = "hf_tokenOfSomebody9931"
PROMPT = "the-prompt-nobody-else-should-read"
SYSTEM = "the-system-prompt-of-an-assistant"


def test_the_bundle_has_findings_settings_and_logs_and_neither_secrets_nor_prompts(
    daemon: Callable[..., Daemon],
) -> None:
    server = daemon(
        settings={
            "security": {"api_keys": [KEY]},
            "logging": {"prompts": True, "level": "debug"},
            "models": {"friend": {"from": "parrot", "system": SYSTEM}},
        },
        env={"HF_TOKEN": TOKEN, "OLLAMA_API_KEY": KEY},
    )
    headers = {"Authorization": f"Bearer {KEY}"}
    for path, body in (
        ("/api/generate", {"model": "friend", "prompt": PROMPT, "stream": False}),
        ("/api/chat", {"model": "friend", "messages": [{"role": "user", "content": PROMPT}]}),
        ("/v1/chat/completions", {"model": "friend", "messages": [{"role": "user", "content": PROMPT}]}),
    ):
        assert server.post(path, body, headers=headers).status_code == 200
    logged = "".join(file.read_text() for file in (server.state / "logs").iterdir() if file.is_file())
    assert PROMPT in logged, "prompts were asked for in the log: without them this test shows nothing"

    file = server.folder / "bundle.zip"
    done = server.cli("doctor", "--deep", "--bundle", str(file), "--config", str(server.config))
    assert str(file) in done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    held = contents(file)
    assert {"report.txt", "report.json", "versions.json", "settings.json", "plugins.json", "daemon.log"} <= set(held)
    assert '"ollmlx"' in held["versions.json"]
    assert "api_keys" in held["settings.json"]
    assert "/api/generate" in held["daemon.log"]
    for name, text in held.items():
        for secret in (KEY, TOKEN, PROMPT, SYSTEM):
            assert secret not in text, f"{secret} stands in {name}"
    again = server.cli("doctor", "--deep", "--bundle", str(file), "--config", str(server.config))
    assert (again.returncode, "exists" in again.stderr) == (1, True), "a file is not overwritten"
    assert contents(file) == held


def contents(file: Path) -> dict[str, str]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}
