"""The page for people who come from another server: its commands are run, and its settings are ones that ollmlx has."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import httpx2
import pytest

from ollmlx.cli.main import parse
from ollmlx.cli.verbs import ALIASES, VERBS
from ollmlx.settings.load import OLLAMA_VARIABLES
from ollmlx.testing.daemon import Daemon

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/switching.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^ *```(\w+)\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
LINES = [line.strip() for kind, block in BLOCKS if kind == "console" for line in block.splitlines() if line.strip()]
INLINE = re.findall(r"`(ollmlx [^`]+)`", PAGE)
COMMANDS = sorted({line for line in (*LINES, *INLINE) if line.startswith("ollmlx ")})


def test_each_server_has_its_section() -> None:
    assert re.findall(r"^## From (.+)$", PAGE, re.MULTILINE) == ["Ollama", "LM Studio", "mlx_lm.server"]
    assert len(COMMANDS) > 12


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_is_one_that_ollmlx_understands(line: str) -> None:
    verb, *words = shlex.split(line)[1:]
    args, run = parse(ALIASES.get(verb, verb), words)
    assert verb in VERBS
    assert callable(run)
    assert args is not None


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith("ollmlx ")])
def test_other_commands_are_pip_and_curl_of_this_daemon(line: str) -> None:
    assert re.fullmatch(r"pip install 'ollmlx\[all\]'|curl http://127\.0\.0\.1:11434/v1/\w+", line)


def test_its_settings_and_variables_exist() -> None:
    for table in (tomllib.loads(block) for kind, block in BLOCKS if kind == "toml"):
        assert {*table} == {"plugins"}
        assert {*table["plugins"]["local_models"]} == {"folders"}
    for variable in re.findall(r"OLLAMA_[A-Z_]+", PAGE):
        assert variable in OLLAMA_VARIABLES


@pytest.mark.parametrize("page", re.findall(r"\]\((\w+\.md)\)", PAGE))
def test_the_pages_that_it_names_exist(page: str) -> None:
    assert (ROOT / "docs" / page).is_file()


NOT_RUN = ("ollmlx serve", "ollmlx launch", "ollmlx logs -f", "ollmlx pull NAME", "ollmlx run NAME")
"""They serve, start a program that may not be here, or never end."""
FINDINGS = ("ollmlx doctor", "ollmlx config check")
"""They end with 1 where they find something: this machine may have problems."""


@pytest.mark.e2e
def test_each_command_of_the_page_does_its_work(tmp_path: Path) -> None:
    fakes: dict[str, dict[str, str]] = {"llama3.2": {}, "mlx-community/Llama-3.2-3B-Instruct-4bit": {}}
    with Daemon(tmp_path, fakes=fakes) as server:
        (tmp_path / "Modelfile").write_text("FROM llama3.2\nSYSTEM Be brief.\n")
        for line in dict.fromkeys([*LINES, *sorted(COMMANDS)]):
            if line.startswith("curl "):
                answer = httpx2.get(line.split()[1].replace("http://127.0.0.1:11434", server.url))
                assert "llama3.2" in {model["id"].partition(":")[0] for model in answer.json()["data"]}
            elif line.startswith("ollmlx ") and not line.startswith(NOT_RUN):
                ran = server.cli(*shlex.split(line)[1:], input="Hello")
                assert "Traceback" not in ran.stderr, f"{line}: {ran.stderr}"
                assert ran.returncode in ((0, 1) if line.startswith(FINDINGS) else (0,)), f"{line}: {ran.stderr}"
                if " run " in line:
                    assert "Hello" in ran.stdout
