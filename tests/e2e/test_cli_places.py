"""The installed command in a project with spaces in its path, with its own models folder.

The project is a copy of the source with a virtual environment of its own, `a project/.venv`; its command starts the
daemon, which finds everything through paths with spaces: Python, plugins, runners, the BLAS, models, state.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import socket
import subprocess
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.e2e.conftest import stop_daemon_of

from ollmlx_mlx.daemon.machine import MlxMachine

pytestmark = [pytest.mark.e2e, pytest.mark.model]
ROOT = Path(__file__).parents[2]
MODEL = "mlx-community/tiny-4bit"
SCRIPT = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
from ollmlx.cli.main import entry

entry()
"""  # as pip writes it where a path has spaces


@dataclass
class Place:
    """An installation, and the folder where its models are."""

    command: Path
    models: Path
    environment: dict[str, str]
    first: subprocess.CompletedProcess[str] | None = None
    """The command that started the daemon, with its answer."""

    def __call__(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=180, cwd=cwd or self.models, env=self.environment,
        )  # fmt: skip

    def copy_by_hand(self, model: Path, folder: str) -> Path:
        """Copy the files that `mlx_lm.convert` writes, and no file of ollmlx."""
        target = self.models / "mlx" / folder
        target.mkdir(parents=True)
        for file in model.iterdir():
            if file.suffix in {".json", ".safetensors", ".txt", ".jinja"} and not file.name.startswith((".", "ollmlx")):
                shutil.copyfile(file, target / file.name)
        return target


def install(project: Path) -> Path:
    """Create an environment in a project, as `make run` does; third-party packages come from the present one."""
    shutil.copytree(ROOT / "src", project / "src")
    shutil.copytree(ROOT / "plugins", project / "plugins")
    environment = project / ".venv"
    venv.create(environment, symlinks=True)
    packages = next((environment / "lib").glob("python*/site-packages"))
    paths = [project / "src", project / "plugins", *site.getsitepackages()]
    (packages / "project.pth").write_text("".join(f"{path}\n" for path in paths))
    command = environment / "bin" / "ollmlx"
    command.write_text(SCRIPT.format(python=environment / "bin" / "python"))
    command.chmod(0o755)
    return command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Place]:
    """Only Ollama's variables are set; the daemon that the first command starts is stopped at the end."""
    folder = tmp_path_factory.mktemp("some place")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    home = folder / "my home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "OLLAMA_HOST": address, "PYTHONWARNINGS": "error"}
    models = folder / "my models"
    made = Place(install(folder / "a project"), models, {**environment, "OLLAMA_MODELS": str(models)})
    made.copy_by_hand(smollm2, MODEL.replace("/", "_"))
    question = "What is the capital of France? Answer in one word."
    made.first = made("run", MODEL, question, "--verbose", cwd=Path("/"))
    yield made
    stop_daemon_of(home / ".ollmlx")


def test_a_project_with_spaces_in_its_path_answers_with_the_real_model(place: Place) -> None:
    done = place.first
    assert done is not None
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Starting the ollmlx daemon" in done.stderr
    runners = place("ps", "--json").stdout
    assert json.loads(runners)["models"][0]["name"] == f"{MODEL}:latest"
    if MlxMachine.here().device == "cpu":
        assert "OpenBLAS" in runners


@pytest.mark.parametrize("name", [MODEL, MODEL.replace("/", "_"), f"hf.co/{MODEL}", MODEL.upper()])
def test_every_spelling_is_the_same_model_in_ollama_models(place: Place, name: str) -> None:
    shown = place("show", name)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == place("show", MODEL).stdout
    assert [line.split()[0] for line in place("list").stdout.splitlines()[1:]] == [f"{MODEL}:latest"]


def test_the_working_directory_does_not_matter(place: Place, tmp_path: Path) -> None:
    elsewhere = tmp_path / "somewhere else"
    elsewhere.mkdir()
    assert place.first is not None
    assert place.first.returncode == 0  # asked from the root of the file system
    assert MODEL in place("list", cwd=elsewhere).stdout
