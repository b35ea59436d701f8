"""Problems that are fixed with the commands that the doctor prints and nothing else."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.doctor.contexts import FakeDaemon, context_of, examined, settle
from tests.unit.doctor.test_checks_storage import put

from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.machine import Processes
from ollmlx.errors.findings import Finding, Severity
from ollmlx.settings.trust import TrustedFiles

pytestmark = pytest.mark.slow

EDITOR = '#!/bin/sh\nsed -i.bak "${1#+}s/.*//" "$2"\n'
"""An editor that removes the line at which it opens."""


@dataclass
class Terminal:
    """A shell with its own home folder. Commands are run by bash; variables are kept."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict)
    real: Processes | None = None
    parts: dict[str, Any] = field(default_factory=dict)
    """Parts of the check context that replace those of a healthy machine."""

    def __post_init__(self) -> None:
        settle(self.home)
        editor = self.home / "editor"
        editor.write_text(EDITOR, encoding="utf-8")
        editor.chmod(0o700)
        self.own = {"HOME": str(self.home), "PATH": os.environ["PATH"], "EDITOR": str(editor)}

    def context(self) -> CheckContext:
        context = replace(context_of(self.home, self.environ), **self.parts)
        return context if self.real is None else replace(context, processes=self.real, daemon=FakeDaemon({}))

    def wrong(self) -> list[Finding]:
        return [one for one in examined(self.context()).findings if one.severity is not Severity.INFO]

    def type(self, command: str) -> None:
        if command == "ollmlx config trust":
            TrustedFiles({"HOME": str(self.home)}).add(self.home / "ollmlx.toml")
        if command.startswith("ollmlx "):  # those are tried where a daemon is
            return
        shown = self.home / "variables"
        script = f"{command} || exit\nenv -0 > {shown}"
        subprocess.run(["bash", "-c", script], env={**self.own, **self.environ}, cwd=self.home, check=True, timeout=120)
        pairs = (pair.partition("=") for pair in shown.read_text(encoding="utf-8").split("\0") if pair)
        shell = ("PWD", "OLDPWD", "SHLVL", "_")
        self.environ = {name: value for name, _, value in pairs if name not in (*self.own, *shell)}


def write(toml: str) -> Callable[[Terminal], None]:
    return lambda terminal: settle(terminal.home, toml)


def with_model(toml: str) -> Callable[[Terminal], None]:
    def broken(terminal: Terminal) -> None:
        settle(terminal.home, toml)
        put(terminal.home / "models/mlx/a")

    return broken


def say(**variables: str) -> Callable[[Terminal], None]:
    return lambda terminal: terminal.environ.update(variables)


def file_for(folder: str) -> Callable[[Terminal], None]:
    def broken(terminal: Terminal) -> None:
        place = terminal.home / folder
        for path in sorted(place.rglob("*"), reverse=True):
            path.rmdir()
        place.rmdir()
        place.write_text("", encoding="utf-8")

    return broken


def readable(path: str) -> Callable[[Terminal], None]:
    def broken(terminal: Terminal) -> None:
        settle(terminal.home, f'[security]\napi_keys = ["{"k" * 40}"]')
        (terminal.home / path).chmod(0o755)

    return broken


def dangling(terminal: Terminal) -> None:
    (terminal.home / "models/mlx").rmdir()
    (terminal.home / "models").rmdir()
    (terminal.home / "models").symlink_to(terminal.home / "disk/models")


def folders(*names: str, name: str = "org/name:latest") -> Callable[[Terminal], None]:
    def broken(terminal: Terminal) -> None:
        for folder in names:
            put(terminal.home / "models/mlx" / folder, name=name)

    return broken


def odd_manifest(terminal: Terminal) -> None:
    path = terminal.home / "models/manifests/registry.ollama.ai/library/a..b/latest"
    path.parent.mkdir(parents=True)
    path.write_text("{}", encoding="utf-8")


def plugin(source: str | None) -> Callable[[Terminal], None]:
    def broken(terminal: Terminal) -> None:
        settle(terminal.home, f'[plugins]\npaths = ["{terminal.home}/odd.py"]')
        if source is not None:
            (terminal.home / "odd.py").write_text(source, encoding="utf-8")

    return broken


BREAKAGES: list[tuple[str, str, Callable[[Terminal], None]]] = [
    ("a key with a typo", "CFG003", write('[server]\nhosst = "127.0.0.1:11434"')),
    ("a section with a typo", "CFG003", write("[runnerz]\nparallel = 2")),
    ("a parameter with a typo", "CFG003", with_model("[models.a]\nparameters = {temperatur = 1}")),
    ("a key of another section", "CFG003", write('[runners]\nlevel = "debug"')),
    ("no TOML", "CFG001", write('[server]\nhost = "127.0.0.1')),
    ("a value of the wrong type", "CFG004", write('[runners]\nparallel = "many"')),
    ("a value out of range", "CFG004", write("[memory]\nshare = 2")),
    ("aliases that loop", "CFG004", with_model('[aliases]\na = "b"\nb = "a"')),
    ("a name that is none", "CFG004", write('[aliases]\na = "x/y/z/w"')),
    ("a malformed variable of Ollama's", "CFG004", say(OLLAMA_KEEP_ALIVE="abc", OLLAMA_HOST="ftp://x")),
    ("a malformed variable of ours", "CFG003", say(OLLMLX_SERVER__HOSTT="x")),
    ("a file that is not there", "CFG001", say(OLLMLX_CONFIG="/nowhere/o.toml")),
    ("a plugin's table without plugin", "CFG008", write("[plugins.hubb]\nendpoint = 'https://x'")),
    ("a plugin's key with a typo", "CFG008", write("[plugins.hub]\nendpoimt = 'https://x'")),
    ("a plugin that is not there", "PLG001", plugin(None)),
    ("a plugin with a syntax error", "PLG001", plugin("\n\ndef :\n")),
    ("a plugin that raises", "PLG001", plugin("x = 1\n1 / 0\n")),
    ("a required plugin that is not installed", "PLG006", write("[plugins]\nrequired = ['odd']")),
    ("a backend that does not exist", "PLG006", with_model("[models.a]\nbackend = 'flux'")),
    ("models that are a file", "STO002", file_for("models")),
    ("models that are a link to nothing", "STO002", dangling),
    ("a state folder that is a file", "STO002", file_for("state")),
    ("two folders for one model", "STO007", folders("org_name", "a copy")),
    ("a folder with another model's name", "STO007", folders("it's mine")),
    ("a folder that is no name", "MDL001", folders("org_na\nme", name="")),
    ("a manifest of Ollama's that is no model", "MDL003", odd_manifest),
    ("API keys that others can read", "SEC007", readable("ollmlx.toml")),
    ("a state folder that others can look into", "SEC007", readable("state")),
    ("a short API key", "SEC008", say(OLLMLX_SECURITY__API_KEYS="short")),
    ("any origin", "SEC006", say(OLLAMA_ORIGINS="*")),
    ("open to the network without a key", "SEC001", say(OLLAMA_HOST="0.0.0.0:11434")),
    ("proxy variables", "NET007", say(HTTP_PROXY="http://proxy:3128")),
    ("proxy variables that spare another host", "NET007", say(http_proxy="http://proxy:3128", no_proxy="intranet")),
]


@pytest.mark.parametrize(("code", "broken"), [pytest.param(*case[1:], id=case[0]) for case in BREAKAGES])
def test_the_commands_that_the_doctor_prints_fix_the_problem(
    tmp_path: Path, code: str, broken: Callable[[Terminal], None]
) -> None:
    terminal = Terminal(tmp_path)
    broken(terminal)
    found = terminal.wrong()
    assert found[0].code == code, "the cause is reported first"
    for _ in range(5):  # a changed settings file is trusted again in between
        if not found:
            break
        for command in found[0].commands:
            terminal.type(command)
        found = terminal.wrong()
    assert found == []


TAKEN = "import socket, time\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()\n"
TAKEN += "print(s.getsockname()[1], flush=True)\ntime.sleep(600)"


@pytest.fixture
def taker() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A program that listens and does not answer, and its port."""
    process = subprocess.Popen([sys.executable, "-c", TAKEN], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("way", ["commands", "instead"])
def test_for_a_port_in_use_either_fix_works(tmp_path: Path, taker: tuple[subprocess.Popen[str], int], way: str) -> None:
    process, port = taker
    terminal = Terminal(tmp_path, {"OLLAMA_HOST": f"127.0.0.1:{port}"}, Processes())
    (found,) = terminal.wrong()
    assert found.code == "NET001"
    assert f"pid {process.pid}" in found.evidence[0]
    assert getattr(found, way)[-1] == "ollmlx serve"
    for command in getattr(found, way):
        terminal.type(command)
    if way == "instead":
        assert process.wait(timeout=60) < 0
    assert terminal.wrong() == []
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", terminal.context().address.port))


def test_a_runner_that_was_left_behind_and_ignores_sigterm_is_ended(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, {"OLLAMA_HOST": "127.0.0.1:0"}, Processes())
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    environ = {**os.environ, "OLLMLX_RUNNER_NONCE": "n"}
    with subprocess.Popen([sys.executable, "-c", deaf], env=environ, stdout=subprocess.PIPE) as runner:
        try:
            assert runner.stdout is not None
            runner.stdout.readline()
            records = tmp_path / "state/runners"
            records.mkdir()
            record = {"runner": "m", "pid": runner.pid, "started": "", "boot": "", "nonce": "n"}
            (records / f"{runner.pid}.json").write_text(json.dumps(record), encoding="utf-8")
            # The process id of the last daemon now belongs to a program that is no daemon and does not listen.
            (tmp_path / "state/ollmlx.lock").write_text(f"{os.getppid()}\n", encoding="ascii")
            (found,) = terminal.wrong()
            assert found.code == "RUN007"
            terminal.type(found.commands[0])
            assert runner.wait(timeout=60) < 0
        finally:
            runner.kill()
    assert terminal.wrong() == []
