"""Parts of the tests of coding agents: a small project with a bug, a play for the model, and the program itself."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollmlx.testing.daemon import Daemon

HANG = 240
"""Seconds after which an agent hangs: it needs two to seven on an idle machine."""
CALC = "def add(a, b):\n    return a - b\n"
FIXED = "def add(a, b):\n    return a + b\n"
TEST = """import unittest

from calc import add


class Adds(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(2, 3), 5)
"""
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEklEQVR4nGP4z8CAFWEXHbQSACj/P8Fu7N9hAAAAAElFTkSuQmCC"
RUN_TESTS = "python3 -B -m unittest"
PROMPT = "Fix calc.py so that its test passes."
KEY = "key-of-the-stage"
CONTEXT = 200_000
SHORT_CONTEXT = 32_768
MODELS = {**dict.fromkeys(("editor", "cutter", "mender", "talker", "starter"), CONTEXT), "reader": SHORT_CONTEXT}
"""The models of the plays, and their context lengths."""

Step = dict[str, Any]


def call(name: str, /, **arguments: Any) -> dict[str, Any]:
    """Return one tool call of a step."""
    return {"name": name, "arguments": arguments}


def reading(step: Step, summary: str) -> Step:
    """Return a step that is played for every page of the large file, until the agent asks for a `summary`."""
    return {"when": f"(?s)^(?!.*({summary})).*brown fox", "optional": True, **step}


@dataclass
class Stage:
    """A daemon whose models follow plays, and one agent that uses it with a home of its own."""

    daemon: Daemon
    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def programs(self) -> Path:
        """The first folder of PATH."""
        return self.folder / "programs"

    def project(self, model: str, steps: list[Step]) -> Path:
        """Write the play of a model, and return a folder with the project. `$HERE` in the play is that folder."""
        project = self.folder / f"project-{model}"
        project.mkdir()
        (project / "calc.py").write_text(CALC)
        (project / "test_calc.py").write_text(TEST)
        (project / "picture.png").write_bytes(base64.b64decode(PNG))
        (project / "large.txt").write_text("".join(f"{line} the quick brown fox jumps\n" for line in range(6000)))
        play = json.dumps(steps).replace("$HERE", str(project))
        self.play(model).write_text(play, encoding="utf-8")
        return project

    def play(self, model: str) -> Path:
        return self.folder / f"{model}.json"

    def launch(self, agent: str, model: str, project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `ollmlx launch` in the project until the agent ends."""
        return self.ollmlx(project, "launch", agent, "--model", model, "--", *arguments)

    def ollmlx(self, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command line in a folder."""
        return subprocess.run(
            [sys.executable, "-m", "ollmlx", *words],
            cwd=folder,
            env=self.environment(folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG,
        )

    def doctor(self, agent: str, model: str, steps: list[Step]) -> tuple[int, dict[str, Any], str]:
        """Run `ollmlx doctor --agent`; return its exit status, its JSON and its progress."""
        self.play(model).write_text(json.dumps(steps), encoding="utf-8")
        done = self.ollmlx(self.folder, "doctor", "--agent", agent, "--model", model, "--json")
        return done.returncode, json.loads(done.stdout), done.stderr

    def environment(self, project: Path) -> dict[str, str]:
        """Return an agent's variables: nothing of this user, and no way out of this machine."""
        closed = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
        return {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "PWD": str(project),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "OLLAMA_HOST": self.daemon.address,
            "OLLAMA_API_KEY": KEY,
            "NO_PROXY": "127.0.0.1,localhost",
            "IS_SANDBOX": "1",  # without it, Claude Code does not run as root
            **closed,
        }


def stage(folder: Path) -> Stage:
    """Return a stage whose daemon is not started yet, and without programs."""
    fakes = {model: {"play": str(folder / f"{model}.json")} for model in MODELS}
    settings = {
        "plugins": {"fake": {"context_length": CONTEXT, "capabilities": ["completion", "tools", "vision"]}},
        "security": {"api_keys": [KEY]},
        "models": {"reader": {"context_length": SHORT_CONTEXT}},
    }
    for name in ("home", "programs"):
        (folder / name).mkdir(parents=True)
    return Stage(Daemon(folder / "daemon", fakes=fakes, settings=settings), folder)
