"""`ollmlx doctor --fix`: runs what loses nothing, keeps copies, and asks for what a person may have meant."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.doctor.contexts import context_of, examined
from tests.unit.doctor.test_mending import BREAKAGES, Terminal, write

from ollmlx.cli.main import main
from ollmlx.doctor.check import found
from ollmlx.doctor.mend import Mender, keep_copy, run_in_shell
from ollmlx.doctor.report import CheckResult, Report
from ollmlx.errors.findings import Finding, SafeCommand, Severity

MENDED = (
    "a key with a typo", "no TOML", "aliases that loop", "a malformed variable of Ollama's", "a plugin that raises",
    "a file that is not there", "models that are a file", "a state folder that is a file", "any origin",
    "two folders for one model", "a folder with another model's name", "a manifest of Ollama's that is no model",
    "a state folder that others can look into", "a short API key", "proxy variables that spare another host",
)  # fmt: skip
"""Breakages after whose safe commands the machine is healthy."""


def contents(home: Path) -> Counter[bytes]:
    """Return what a person has in a home folder; not what ollmlx notes for itself."""
    files = (path for path in home.rglob("*") if path.is_file() and path.name not in ("editor", "dry-load.json"))
    return Counter(path.read_bytes() for path in files if "trust" not in path.name)


def mender(terminal: Terminal, agree: Callable[[Finding], bool], told: list[str]) -> Mender:
    environ = {**terminal.own, **terminal.environ}
    return Mender(lambda: examined(context_of(terminal.home, environ)), agree, told.append, environ)


@pytest.mark.slow
@pytest.mark.parametrize("name", MENDED)
def test_a_broken_machine_becomes_healthy_and_nothing_is_lost(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, told = Terminal(tmp_path), list[str]()
    _, _, breaks = next(one for one in BREAKAGES if one[0] == name)
    breaks(terminal)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    unasked = mender(terminal, lambda finding: not any(one.asks for one in finding.safe), told)
    unasked.mend()
    assert not before - contents(tmp_path)
    terminal.environ = dict(unasked.environ)
    left = mender(terminal, lambda _: True, told).mend()
    assert not before - contents(tmp_path)
    assert [one for one in left.findings if one.severity is not Severity.INFO] == []
    for line in told:
        if line.startswith("kept a copy: "):
            assert Path(line.partition(": ")[2]).exists()


def report_of(*findings: Finding) -> Report:
    return Report((CheckResult("x", "config", "t", findings, 0.0),), 0.0)


def test_only_the_safe_commands_before_the_first_unsafe_one_are_run_and_none_twice(tmp_path: Path) -> None:
    def touch(name: str) -> SafeCommand:
        return SafeCommand(f"echo {name} >> {tmp_path / 'order'}")

    findings = (
        found("CFG003", "one", commands=(touch("a"), "rm -r /", touch("b"))),
        found("CFG004", "two", commands=(touch("c"), touch("d"), "ollmlx config check")),
        found("STO004", "three", commands=("rm -r /",), instead=(touch("e"),)),
        found("STO001", "a note", commands=(touch("f"),)),
        found("STO009", "five", commands=(SafeCommand("false"), touch("g"))),
    )
    told: list[str] = []
    assert Mender(lambda: report_of(*findings), lambda _: True, told.append, dict(os.environ)).mend().findings
    assert (tmp_path / "order").read_text().split() == ["a", "c", "d"]
    assert told == ["still there: CFG003 one", "still there: CFG004 two", "failed with exit status 1: false"]


def test_without_a_copy_nothing_is_changed(tmp_path: Path) -> None:
    file = tmp_path / ("a" * 250)  # the name of its copy would be too long
    file.write_text("mine", encoding="utf-8")
    command = SafeCommand(f"echo > {file}", changes=file)
    told: list[str] = []
    Mender(lambda: report_of(found("CFG003", "x", commands=(command,))), lambda _: True, told.append, {}).mend()
    assert file.read_text(encoding="utf-8") == "mine"
    assert told[0].startswith(f"not run: {command}")


def test_a_copy_has_a_free_name_the_same_mode_and_is_listed_by_no_store(tmp_path: Path) -> None:
    file, folder = tmp_path / "ollmlx.toml", tmp_path / "org_name"
    file.write_text("k = 1", encoding="utf-8")
    file.chmod(0o600)
    folder.mkdir()
    (folder / "weights").write_bytes(b"w")
    copies = [keep_copy(file), keep_copy(file), keep_copy(folder)]
    assert [one.name for one in copies] == [
        ".ollmlx.toml.before-fix", ".ollmlx.toml.before-fix-2", ".org_name.before-fix"
    ]  # fmt: skip
    assert (copies[1].read_text(encoding="utf-8"), copies[1].stat().st_mode & 0o777) == ("k = 1", 0o600)
    assert (copies[2] / "weights").samefile(folder / "weights"), "weights are not written twice"


def test_of_a_copy_that_cannot_be_finished_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "org_name").mkdir()
    (tmp_path / "org_name/weights").write_bytes(b"w")
    monkeypatch.setattr("os.link", full)
    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(OSError, match="No space"):
        keep_copy(tmp_path / "org_name")
    assert [one.name for one in tmp_path.iterdir()] == ["org_name"]


def test_a_command_sees_the_variables_of_the_one_before_it_and_ollmlx_is_this_program() -> None:
    environ = {"PATH": os.environ["PATH"], "OLD": "a b'\n"}
    status, after = run_in_shell('export NEW="$OLD"; unset OLD', environ)
    assert (status, after) == (0, {"PATH": os.environ["PATH"], "NEW": "a b'\n"})
    assert run_in_shell("ollmlx --version >/dev/null", {**os.environ})[0] == 0
    assert run_in_shell("exit 3", environ)[0] == run_in_shell("(exit 3)", environ)[0] == 3


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--fix"], "no terminal"), (["--yes"], "--fix"), (["--fix", "--yes", "--bundle", "x.zip"], "exclude"),
        (["--fix", "--yes", "--model", "m"], "exclude"), (["--fix", "--yes", "--list"], "exclude"),
    ],
)  # fmt: skip
def test_fix_without_a_person_or_beside_another_task_is_refused(
    words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main(["doctor", *words]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "asked", "left"), [("y\n", True, []), ("\n", True, ["CFG004"]), ("", False, [])])
def test_the_command_line_asks_and_tells_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, asked: bool,
    left: list[str],
) -> None:  # fmt: skip
    write("")(Terminal(tmp_path))
    for name, value in {"HOME": str(tmp_path), "OLLAMA_KEEP_ALIVE": "abc", "OLLLAMA_DEBUG": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OLLMLX_CONFIG", str(tmp_path / "ollmlx.toml"))
    monkeypatch.setenv("OLLAMA_DEBUG", "")  # it is set by the mending, and restored after the test
    monkeypatch.delenv("OLLAMA_DEBUG")
    terminal = io.StringIO(answer * 2)
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr("ollmlx.cli.doctor.is_terminal", lambda stream: stream is terminal)
    code = main(["doctor", "config", "--fix", "--json", *([] if asked else ["--yes"])])
    shown = capsys.readouterr()
    reported = json.loads(shown.out)
    assert [one["code"] for one in reported["findings"] if one["severity"] == "error"] == left
    assert len(re.findall(re.escape("Run it? [y/N]"), shown.err)) == 2 * asked
    assert ("  unset OLLAMA_KEEP_ALIVE" in shown.err) == (not left)
    assert code == 1, "until it is typed, the daemon does not start in this shell"


def test_the_findings_that_another_process_tells_hold_nothing_safe() -> None:
    told = found("CFG003", "x", commands=(SafeCommand("rm -r /"),)).model_dump(mode="json")
    assert Finding.model_validate(told).safe == ()
