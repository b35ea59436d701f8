"""plugins/README.md is run: its files are written, its tests pass, its settings start a daemon, its commands answer."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ollmlx.testing import BackendSuite, CheckSuite, RoutesSuite, StoreSuite
from ollmlx.testing.daemon import Daemon

PAGE = Path(__file__).parents[2] / "plugins" / "README.md"
TEXT = PAGE.read_text(encoding="utf-8")


def files() -> dict[str, str]:
    return dict(re.findall(r"```python\n# file: (\S+)\n(.*?)```", TEXT, re.DOTALL))


@pytest.fixture
def tutorial(tmp_path: Path) -> Path:
    folder = tmp_path / "tutorial"
    folder.mkdir()
    for name, code in files().items():
        (folder / name).write_text(code, encoding="utf-8")
    return folder


def test_every_block_of_code_is_a_file_that_is_run_and_the_backend_is_short() -> None:
    assert TEXT.count("```python") == len(files())
    assert len([line for line in files()["shout.py"].splitlines() if line.strip()]) < 40


@pytest.mark.parametrize("suite", [BackendSuite, StoreSuite, RoutesSuite, CheckSuite])
def test_the_page_names_all_that_a_suite_asks_for(suite: type) -> None:
    row = re.search(rf"^\| `{suite.__name__}` \|.*", TEXT, re.MULTILINE)
    assert row is not None
    asked = {
        name
        for base in suite.__mro__
        for name, value in vars(base).items()
        if not name.startswith(("_", "test_"))
        and name != "excused"
        and (inspect.isfunction(value) or name in vars(base).get("__annotations__", {}))
    }
    assert set(re.findall(r"`(\w+)(?:\(.*?\))?`", row[0])) == asked | {suite.__name__}


def test_the_tutorials_own_tests_pass(tutorial: Path) -> None:
    options = ["-q", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto"]
    loops = ["-o", "asyncio_default_fixture_loop_scope=function", "--rootdir", str(tutorial)]
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(tutorial)}
    argv = [sys.executable, "-m", "pytest", *options, *loops, str(tutorial)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tutorial, env=env, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.e2e
def test_its_plugins_answer_in_a_daemon(tutorial: Path, daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    settings = tomllib.loads(TEXT.partition("```toml\n")[2].partition("```")[0])
    settings["plugins"]["paths"] = [str(tutorial / name) for name in settings["plugins"]["paths"]]
    models = tmp_path / "models"
    (models / "folders" / "loud").mkdir(parents=True)
    (models / "folders" / "loud" / "ending.txt").write_text("THE END.", encoding="utf-8")
    settings["storage"] = {"models": str(models)}
    server = daemon(fakes=None, settings=settings)
    for path, body, expected in _commands():
        answer = server.post(path, body)
        assert answer.status_code == 200, answer.text
        assert expected in answer.json().values(), answer.text
    listed = server.cli("plugin", "list", "--json", "--config", str(server.config)).stdout
    on = {plugin["name"]: plugin["enabled"] for plugin in json.loads(listed)}
    assert {on[Path(path).stem] for path in settings["plugins"]["paths"]} == {True}


def _commands() -> list[tuple[str, dict[str, Any], str]]:
    """Path, body and expected text of every `curl` on the page."""
    blocks = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    found = []
    for command, expected in zip(lines[::2], lines[1::2], strict=True):
        words = shlex.split(command.removeprefix("$ "))
        assert words[:2] == ["curl", "-s"]
        found.append((words[2].removeprefix("localhost:11434"), json.loads(words[4]), expected))
    assert len(found) >= 3
    return found
