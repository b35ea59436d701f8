"""`ollmlx launch`: the list, the checks of the model, what is shown, and a program that it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import CommandLine, ScriptedDaemon

TOOLS = ["completion", "tools"]


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in PATH with agents; nothing is installed there yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def install(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def has_model(daemon: ScriptedDaemon, *, capabilities: list[str] = TOOLS, context: int = 40_960) -> None:
    daemon.says("POST", "/api/show", {"capabilities": capabilities, "model_info": {}})
    daemon.says("POST", "/api/generate", {"done": True})
    daemon.says("GET", "/v1/models/m", {"id": "m:latest", "context_length": context})


def started(daemon: ScriptedDaemon, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ollmlx", "launch", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OLLAMA_HOST": daemon.url},
        **options,
    )


def test_without_a_name_it_lists_what_is_installed_and_how_to_get_the_rest(ollmlx: CommandLine, programs: Path) -> None:
    install(programs, "codex", "exit 0")
    lines = ollmlx("launch").out.splitlines()
    assert any(line.startswith("codex ") and str(programs / "codex") in line for line in lines)
    assert any(line.startswith("claude ") and "npm install -g @anthropic-ai/claude-code" in line for line in lines)
    listed = {one["name"]: one["path"] for one in json.loads(ollmlx("launch", "--json").out)["agents"]}
    assert (listed["codex"], listed["claude"]) == (str(programs / "codex"), None)


def test_a_program_that_is_not_installed_is_named_with_the_command_that_installs_it(ollmlx: CommandLine) -> None:
    outcome = ollmlx("launch", "codex", "--model", "m")
    assert outcome.code == 1
    assert "no program 'codex' in PATH" in outcome.err
    assert "npm install -g @openai/codex" in outcome.err


def test_the_program_gets_what_is_set_then_what_stands_behind_the_dashes_and_its_exit_status_counts(
    daemon: ScriptedDaemon, programs: Path
) -> None:
    has_model(daemon)
    install(programs, "codex", 'for word in "$@"; do echo "$word"; done; echo "key $OLLMLX_AGENT_KEY"; exit 7')
    process = started(daemon, "codex", "--model", "m", "--", "exec", "--json", "-c", "x=1", "--", "it is --config")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 7, err
    assert 'model="m"' in out.splitlines()
    assert out.splitlines()[-7:] == ["exec", "--json", "-c", "x=1", "--", "it is --config", "key ollmlx"]
    assert [one["model"] for one in daemon.bodies("/api/generate")] == ["m"]  # it was loaded before


def test_ctrl_c_is_the_program_s(daemon: ScriptedDaemon, programs: Path) -> None:
    has_model(daemon)
    install(programs, "claude", "trap 'exit 42' INT; echo ready; while :; do sleep 0.05; done")
    # A shell starts what runs in its background with the signal ignored; a terminal's programs get it.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = started(daemon, "claude", "--model", "m", start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 42


def test_a_model_without_tools_is_refused(daemon: ScriptedDaemon, ollmlx: CommandLine, programs: Path) -> None:
    install(programs, "claude", "exit 0")
    has_model(daemon, capabilities=["completion"])
    outcome = ollmlx("launch", "claude", "--model", "m")
    assert outcome.code == 1
    assert "Claude Code works with tools, and m has none" in outcome.err
    assert daemon.bodies("/api/generate") == []


def test_an_agent_that_edits_by_text_needs_no_tools(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    has_model(daemon, capabilities=["completion"])
    assert ollmlx("launch", "aider", "--model", "m", "--config").code == 0


@pytest.mark.parametrize(("context", "warned"), [(4096, True), (32_767, True), (32_768, False)])
def test_a_short_context_is_told(daemon: ScriptedDaemon, ollmlx: CommandLine, context: int, warned: bool) -> None:
    has_model(daemon, context=context)
    outcome = ollmlx("launch", "codex", "--model", "m", "--config")
    assert outcome.code == 0
    assert (f"context of {context} tokens" in outcome.err) == warned


def test_without_a_model_it_takes_a_loaded_one_with_tools_else_the_newest(
    daemon: ScriptedDaemon, ollmlx: CommandLine
) -> None:
    has_model(daemon)
    names = [("new:latest", TOOLS), ("plain:latest", ["completion"]), ("m", TOOLS)]
    daemon.says("GET", "/api/tags", {"models": [{"name": name, "capabilities": able} for name, able in names]})
    daemon.says("GET", "/api/ps", {"models": [{"name": "plain:latest"}, {"name": "m"}]})
    shown = json.loads(ollmlx("launch", "codex", "--config", "--json").out)
    assert (shown["agent"], shown["model"], shown["context"]) == ("codex", "m", 40_960)


def test_no_model_with_tools_is_told(daemon: ScriptedDaemon, ollmlx: CommandLine, programs: Path) -> None:
    install(programs, "codex", "exit 0")
    daemon.says("GET", "/api/tags", {"models": []})
    daemon.says("GET", "/api/ps", {"models": []})
    outcome = ollmlx("launch", "codex")
    assert outcome.code == 1
    assert "no installed model has tools" in outcome.err


def test_config_shows_what_is_set_and_starts_nothing_and_restore_removes_it(
    daemon: ScriptedDaemon, ollmlx: CommandLine, programs: Path, tmp_path: Path
) -> None:
    has_model(daemon)
    install(programs, "claude", f"touch {tmp_path}/started")
    shown = ollmlx("launch", "claude", "--model", "m", "--config")
    assert f"ANTHROPIC_BASE_URL={daemon.url}" in shown.out
    listed = json.loads(ollmlx("launch", "claude", "--model", "m", "--config", "--json").out)
    (file,) = listed["files"]
    assert Path(file).is_file()
    assert f"# writes {file}" in shown.out
    assert not (tmp_path / "started").exists()
    assert ollmlx("launch", "claude", "--restore").out == f"removed {file}\n"
    assert not Path(file).exists()
    assert ollmlx("launch", "claude", "--restore").out == "nothing to undo for Claude Code\n"


def test_a_daemon_without_openai_s_routes_still_tells_the_context(daemon: ScriptedDaemon, ollmlx: CommandLine) -> None:
    daemon.says("POST", "/api/show", {"capabilities": TOOLS, "model_info": {"qwen3.context_length": 40_960}})
    daemon.says("POST", "/api/generate", {"done": True})
    shown = json.loads(ollmlx("launch", "codex", "--model", "m", "--config", "--json").out)
    assert shown["context"] == 40_960


def test_a_settings_file_stands_before_the_verb(daemon: ScriptedDaemon, ollmlx: CommandLine, tmp_path: Path) -> None:
    settings = tmp_path / "mine.toml"
    settings.write_text(f'server = {{ host = "{daemon.url}" }}\nstorage = {{ state = "{tmp_path}/mine" }}\n')
    has_model(daemon)
    listed = json.loads(ollmlx("--config", str(settings), "launch", "claude", "--model", "m", "--config", "--json").out)
    assert listed["files"] == [f"{tmp_path}/mine/agents/claude/settings.json"]
