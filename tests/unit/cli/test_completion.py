"""A shell asks the command what can follow; the man page and the completion know every verb."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cli.conftest import CommandLine, ScriptedDaemon

from ollmlx.cli import build
from ollmlx.cli.completion import whole_parser
from ollmlx.cli.verbs import VERBS


def completed(line: str, url: str = "http://127.0.0.1:1") -> list[str]:
    """The words that a shell gets for a line with the cursor at its end."""
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "IFS": "\n", "OLLAMA_HOST": url}
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -P -m ollmlx 8>&1 9>/dev/null'],
        env={**os.environ, **asked}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return [word.strip() for word in done.stdout.replace("\x0b", "\n").splitlines()]


@pytest.mark.slow
def test_verbs_options_and_installed_models_are_completed(daemon: ScriptedDaemon) -> None:
    daemon.says("GET", "/api/tags", {"models": [{"name": "qwen3:4b"}, {"name": "smollm2:135m"}]})
    assert set(completed("ollmlx pu")) == {"pull", "push"}
    assert completed("ollmlx pull --dry") == ["--dry-run"]
    assert completed("ollmlx run smol", daemon.url) == ["smollm2:135m"]
    assert completed("ollmlx run smol") == [], "no daemon runs: nothing is known, and nothing is said"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_lines(ollmlx: CommandLine, shell: str) -> None:
    assert "ollmlx" in ollmlx("completion", shell).out


def test_the_whole_parser_has_every_verb() -> None:
    text = whole_parser().format_help()
    assert not [verb for verb in VERBS if f"\n    {verb} " not in text]


def test_the_version_names_the_commit_and_the_extras_that_are_complete(
    ollmlx: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = ollmlx("--version").out.splitlines()
    assert first.startswith("ollmlx version ")
    assert "dev" in second
    assert "cuda" not in second
    (tmp_path / build.COMMIT).write_text("abc123\n", "ascii")
    monkeypatch.setattr(build, "files", lambda package: tmp_path)
    assert build.commit() == "abc123"
