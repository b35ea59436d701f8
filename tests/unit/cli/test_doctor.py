"""`ollmlx doctor`: its options, its output and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ollmlx.cli.main import main
from ollmlx.doctor.machine import Machine, Processes
from ollmlx.errors import OllmlxError
from ollmlx.errors.findings import CODES

BROKEN = "[server\n"


@pytest.fixture(autouse=True)
def nothing_here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder, and an address where no program listens."""
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    monkeypatch.setattr("ollmlx.doctor.context.PLUGIN_SECONDS", 60.0)  # a busy machine may exceed the doctor's limits
    monkeypatch.setattr("ollmlx.cli.doctor.PATIENCE", 60.0)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it went to the network")

    for name in ("connect", "connect_ex", "bind"):
        monkeypatch.setattr(f"socket.socket.{name}", refuse)


@pytest.mark.parametrize("code", ["CFG001", "cfg003", "ENV021", "ENV020"])
@pytest.mark.parametrize("settings", [None, BROKEN])
@pytest.mark.usefixtures("no_network")
def test_a_page_is_printed_without_daemon_settings_or_network(
    nothing_here: Path, capsys: pytest.CaptureFixture[str], code: str, settings: str | None
) -> None:
    if settings is not None:
        (nothing_here / "ollmlx.toml").write_text(settings, encoding="utf-8")
    assert main(["doctor", "--explain", code]) == 0
    assert capsys.readouterr().out.startswith(f"# {code.upper()}: ")


@pytest.mark.usefixtures("no_network")
def test_every_code_is_listed_with_settings_that_are_broken(
    nothing_here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (nothing_here / "ollmlx.toml").write_text(BROKEN, encoding="utf-8")
    assert main(["doctor", "--list", "--json"]) == 0
    listed = {one["code"]: one for one in json.loads(capsys.readouterr().out)}
    of_plugins = {page.stem for page in Path(__file__).parents[3].glob("plugins/*/diagnostics/*.md")}
    assert set(listed) == {*CODES, *of_plugins}
    assert listed["ENV021"]["owner"] == "llamacpp"
    assert set(listed["ENV021"]) == {"code", "title", "severity", "owner"}


@pytest.mark.parametrize(
    "words", [["nothing"], ["--explain", "XXX999"], ["--explain"], ["config", "storage", "x"], ["--unheard-of"]]
)
def test_wrong_usage_ends_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(["doctor", *words])
    except SystemExit as exit_of_argparse:
        code = exit_of_argparse.code
    assert (code, capsys.readouterr().out) == (2, "")


@pytest.mark.parametrize(
    ("what", "groups"), [("network", {"network"}), ("NET007", {"network"}), ("net003", {"server"})]
)
def test_one_group_or_the_checks_of_one_code_are_run(
    what: str, groups: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", what, "--json"]) == 0
    reported = json.loads(capsys.readouterr().out)
    assert {check["group"] for check in reported["checks"]} == groups


def test_warnings_do_not_fail_and_errors_do(
    nothing_here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    assert main(["doctor", "network"]) == 0
    assert "0 errors, 1 warning." in capsys.readouterr().out
    (nothing_here / "ollmlx.toml").write_text(BROKEN, encoding="utf-8")
    assert main(["doctor", "config"]) == 1


def test_standard_output_is_only_json_nothing_is_logged_and_a_closed_pipe_is_no_error(nothing_here: Path) -> None:
    (nothing_here / "ollmlx.toml").write_text("[plugins]\npaths = ['odd.py']", encoding="utf-8")
    command = [sys.executable, "-m", "ollmlx", "doctor", "--deep", "plugins", "--json", "--config", "ollmlx.toml"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "20"}, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["findings"][0]["code"] == "PLG001"
    left = subprocess.run(f"{' '.join(command)} | true", shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in left.stderr


def test_a_narrow_terminal_wraps_words_and_leaves_commands_whole(
    nothing_here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (nothing_here / "ollmlx.toml").write_text("[server]\nhosst = 1", encoding="utf-8")
    monkeypatch.setattr("ollmlx.cli.doctor.width", lambda stream: 44)
    main(["doctor", "config"])
    lines = capsys.readouterr().out.splitlines()
    commands = [line.strip() for line in lines if line.lstrip().startswith("$ ")]
    assert f"$ sed -i.bak '2s/hosst/host/' {nothing_here / 'ollmlx.toml'}" in commands
    assert all(len(line) <= 44 for line in lines if "$ " not in line and "more: " not in line)


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [(">&-", 0, ""), ("> /dev/full", 1, "cannot write the output"), ("2>&-", 0, ""), ("<&-", 0, "")],
)
def test_a_closed_or_full_standard_stream_is_no_traceback(ending: str, code: int, said: str) -> None:
    command = f"{sys.executable} -m ollmlx doctor --deep config {ending}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, "Traceback" in done.stderr, said in done.stderr) == (code, False, True)


def test_an_encoding_without_ticks_gets_other_signs_and_a_name_that_is_not_utf8_is_escaped(nothing_here: Path) -> None:
    command = [sys.executable, "-m", "ollmlx", "doctor", "--deep", "config", "--bundle", os.fsdecode(b"b\xff.zip")]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "OLLAMA_MODELS": os.fsdecode(b"/m\xff")}
    done = subprocess.run(command, capture_output=True, check=False, env=environ, cwd=nothing_here, timeout=120)
    assert b"Traceback" not in done.stderr
    assert b"[+] Settings" in done.stdout
    assert b"m\\udcff" in done.stdout
    (written,) = nothing_here.glob("b*.zip")
    assert "report.json" in zipfile.ZipFile(written).namelist()


def test_a_user_whom_the_system_does_not_know_gets_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(user: int) -> None:
        raise KeyError(user)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    try:
        assert main(["doctor", "config", "--json"]) == 0
    finally:
        os.environ.pop("HOME", None)
    assert json.loads(capsys.readouterr().out)["ok"]


def test_a_machine_without_proc_is_described_as_far_as_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/proc/meminfo")

    for name in ("virtual_memory", "swap_memory", "Process"):
        monkeypatch.setattr(f"psutil.{name}", missing)
    machine = Machine.here()
    assert (machine.ram > 0, machine.available, machine.swap_total) == (True, 0, 0)
    assert (Processes().get(1), Processes().variables(1), Processes().listens(1)) == (None, {}, ())


def test_a_failed_run_ends_with_the_first_finding_of_the_doctor_on_a_terminal(
    nothing_here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (nothing_here / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("OLLAMA_MODELS", str(nothing_here / "file"))
    monkeypatch.setenv("OLLAMA_HOST", "192.0.2.7:1")
    failure = OllmlxError("the daemon exited at once")

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr("ollmlx.cli.run.ensure_daemon", fail)
    monkeypatch.setattr("sys.stdin", None)
    assert main(["run", "tiny", "hello"]) == 1
    assert "STO002" not in capsys.readouterr().err, "a script gets the error only"
    monkeypatch.setattr("ollmlx.cli.main.is_terminal", lambda stream: stream is sys.stderr)
    assert main(["run", "tiny", "hello"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Error: the daemon exited at once")
    assert "STO002" in shown.partition("ollmlx doctor finds:")[2]
