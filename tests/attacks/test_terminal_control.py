"""Attack: control characters in a model or a request. They set the clipboard, moved the cursor and forged log lines."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import StartDaemon
from tests.servers.ollama_folder import OllamaFolder, tiny_gguf, usual_layers

from ollmlx.cli.terminal import note
from ollmlx.doctor.check import found
from ollmlx.doctor.report import CheckResult, Report
from ollmlx.settings import Settings
from ollmlx.settings.model import LoggingSettings, StorageSettings
from ollmlx.testing.daemon import Daemon
from ollmlx.text.controls import escape_json, escape_line, escape_text
from ollmlx.web.logs import logging_to

ATTACK = "\x1b]52;c;cm0gLXJmIH4=\x07\x1b[2J\x9b31m\u202egnp.exe\u2066\x08\x7f\u2028\x85"
FORBIDDEN = {*map(chr, (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)))} - {*"\n\t"}


def on_terminal(one: Daemon, *arguments: str) -> str:
    """Run a command whose standard output and error are a terminal without colours; return what reaches it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ollmlx.cli.main", *arguments], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs,
        cwd=one.folder,
        env={**one.environment, "OLLAMA_HOST": one.address, "OLLMLX_CONFIG": "ollmlx.toml", "TERM": "dumb"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # Linux: the other side is closed
        pass
    finally:
        os.close(ours)
        process.wait(120)
    return shown.decode("utf-8", "replace").replace("\r\n", "\n")


def test_no_command_lets_a_model_or_a_request_control_the_terminal(daemon: StartDaemon) -> None:
    one = daemon(settings={"plugins": {"disabled": ["hub", "pypi"]}})
    metadata = {"general.name": ATTACK, "general.architecture": "llama", f"llama.{ATTACK}": ATTACK}
    layers = {**usual_layers(tiny_gguf(**metadata)), "system": ATTACK.encode(), "license": ATTACK.encode()}  # type: ignore[arg-type]
    layers["template"] = ATTACK.encode()
    OllamaFolder(one.models).add("bad", layers, model_family=ATTACK[:60], model_type=ATTACK[:60], file_type=ATTACK[:60])
    one.post("/api/generate", {"model": f"a{ATTACK}\n09:00:00 INFO forged", "prompt": ATTACK, "stream": False})
    one.get(f"/x{quote(ATTACK)}")
    commands = [
        ["show", "bad"], ["show", "-v", "bad"], ["list"], ["ps"], ["doctor"], ["logs"], ["logs", "--json"],
        *(["show", f"--{part}", "bad"] for part in ("license", "system", "template", "modelfile", "parameters")),
        ["run", "bad", "hello"], ["rm", f"x{ATTACK}"], ["config", "show"],
    ]  # fmt: skip
    for command in commands:
        shown = on_terminal(one, *command)
        assert FORBIDDEN.isdisjoint(shown), command
        if command[:2] in (["show", "--license"], ["show", "-v"]):
            assert "\\x1b]52;c;" in shown, "the attack is visible"
    assert FORBIDDEN.isdisjoint(one.log_text)
    for file in (one.state / "logs").iterdir():
        assert FORBIDDEN.isdisjoint(file.read_text(encoding="utf-8"))
    assert one.cli("show", "--license", "bad").stdout == f"{ATTACK}\n", "a file gets what the model says"


@pytest.mark.parametrize("format", ["console", "json"])
def test_nobody_forges_a_line_of_the_log(tmp_path: Path, format: str) -> None:
    settings = Settings(
        storage=StorageSettings(state=tmp_path), logging=LoggingSettings.model_validate({"format": format})
    )
    stream = io.StringIO()
    forged = f"x\r\n09:00:00 INFO    forged{ATTACK}"
    with logging_to(stream, settings):
        try:
            raise ValueError(forged)
        except ValueError:
            logging.getLogger("ollmlx.attack").exception("failed: %s", forged)
    for text in (stream.getvalue(), (tmp_path / "logs/daemon.log").read_text(encoding="utf-8")):
        assert FORBIDDEN.isdisjoint(text)
        assert not any(line.startswith("09:00:00") for line in text.splitlines())


def test_the_doctor_and_notes_show_what_a_finding_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    finding = found("MDL003", f"a{ATTACK}\nb", evidence=(ATTACK,), subject="x")
    text = Report((CheckResult("models", "storage", "ollmlx", (finding,), 0.1),), 0.1).as_text(80)
    note(ATTACK)
    for shown in (text, capsys.readouterr().err):
        assert FORBIDDEN.isdisjoint(shown)
        assert "\\x1b]52" in shown


@given(st.text())
def test_what_is_escaped_keeps_every_other_character(text: str) -> None:
    assert FORBIDDEN.isdisjoint(escape_text(text))
    assert "\n" not in escape_line(text)
    assert json.loads(escape_json(json.dumps(text, ensure_ascii=False))) == text
    kept = [char for char in text if char not in FORBIDDEN | {*"\n\t\u2028\u2029"}]
    if len(kept) == len(text):
        assert escape_line(text) == text
