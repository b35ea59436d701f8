"""`ollmlx service`: the files for systemd and launchd, and the commands that control them, on both platforms."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from ollmlx.cli.background.description import NEUTRAL_PATH, Description, Manager, describe_service
from ollmlx.cli.background.launchd import LABEL, Launchd
from ollmlx.cli.background.program import MISSING, Output, checked, run_program
from ollmlx.cli.main import main
from ollmlx.cli.service import find_manager
from ollmlx.errors import ConfigError, OllmlxError, Unsupported

DONE = Output(0, "", "")
FAILED = Output(1, "", "Failed to connect to bus: No medium found\n")
SHOWN = "UnitFileState=enabled\nActiveState={}\nSubState={}\nMainPID={}\nNRestarts={}\nResult={}\n"
PRINTED = "x = {\n\tstate = running\n\tpid = 7\n\tlast exit code = 1\n\tsub = {\n\t\tstate = active\n\t}\n}\n"
SERVICE = f"gui/{os.getuid()}/{LABEL}"


class Commands:
    """Notes each command, and answers it from a script: the first entry whose words begin the command."""

    def __init__(self, **script: Output) -> None:
        self.script = {name.replace("_", " "): output for name, output in script.items()}
        self.ran: list[str] = []

    def __call__(self, command: Sequence[str]) -> Output:
        line = " ".join(command).replace(" --user", "")
        self.ran.append(line)
        return next((output for start, output in self.script.items() if line.startswith(start)), DONE)


def description(environ: Mapping[str, str], *arguments: str, state: Path = Path("/home/anna/.ollmlx")) -> Description:
    return describe_service(list(arguments), environ, state, 10.0, program="/opt/tools/bin/ollmlx")


def manager(platform: str, commands: Commands, folder: Path = Path("/home/anna")) -> Manager:
    return find_manager(platform, commands, folder, {}, folder / ".ollmlx")


@pytest.mark.parametrize(
    ("environ", "written", "left_out"),
    [
        ({"OLLAMA_KEEP_ALIVE": "10m", "EDITOR": "vi", "PATH": "/home/anna/bin"}, {"OLLAMA_KEEP_ALIVE": "10m"}, ()),
        ({"OLLMLX_SECURITY__API_KEYS": "one,two"}, {}, ("OLLMLX_SECURITY__API_KEYS",)),
        ({"OLLMLX_SECURITY__KEYS__ANNA__KEY": "one"}, {}, ("OLLMLX_SECURITY__KEYS__ANNA__KEY",)),
        ({"HF_TOKEN": "hf_aaaaaaaaaaaa", "HF_HOME": "/data/hf"}, {"HF_HOME": "/data/hf"}, ("HF_TOKEN",)),
        ({"HTTPS_PROXY": "http://anna:pass@proxy:80"}, {}, ("HTTPS_PROXY",)),
        ({"https_proxy": "http://proxy:80"}, {"https_proxy": "http://proxy:80"}, ()),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "x-team=0"}, {}, ("OTEL_EXPORTER_OTLP_HEADERS",)),
        ({"OLLAMA_API_KEY": "of a client"}, {}, ()),
        ({"OLLAMA_MODELS": " "}, {}, ()),
    ],
)
def test_variables_that_matter_are_written_and_secrets_are_not(
    environ: dict[str, str], written: dict[str, str], left_out: tuple[str, ...]
) -> None:
    found = description(environ)
    assert (found.environment, found.left_out) == ({"PATH": NEUTRAL_PATH, **written}, left_out)


def test_folders_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert description({"OLLAMA_MODELS": "models"}).environment["OLLAMA_MODELS"] == str(tmp_path / "models")


def test_a_unit_keeps_every_character_and_systemd_reads_it(tmp_path: Path) -> None:
    program = tmp_path / "a program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    found = describe_service(
        ["--config", '/a "b" $c 100%'], {"OLLAMA_ORIGINS": 'http://a%20"b'}, tmp_path, 10.0, str(program)
    )
    text = manager("linux", Commands()).text(found).decode()
    assert '"serve" "--config" "/a \\"b\\" $$c 100%%"\n' in text
    assert 'Environment="OLLAMA_ORIGINS=http://a%%20\\"b"\n' in text
    assert "TimeoutStopSec=35\n" in text
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "ollmlx.service"
    unit.write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(unit)],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_a_line_break_is_refused_in_a_unit() -> None:
    with pytest.raises(ConfigError, match="control character"):
        manager("linux", Commands()).text(description({"OLLAMA_ORIGINS": "a\nExecStart=/bin/evil"}))


def test_an_agent_has_the_same_program_and_environment(tmp_path: Path) -> None:
    found = description({"OLLAMA_HOST": "0.0.0.0"}, "--lan", state=tmp_path)
    plist = plistlib.loads(manager("darwin", Commands(), tmp_path).text(found))
    assert plist["ProgramArguments"] == ["/opt/tools/bin/ollmlx", "serve", "--lan"]
    assert plist["EnvironmentVariables"] == {"PATH": NEUTRAL_PATH, "OLLAMA_HOST": "0.0.0.0"}
    assert (plist["Label"], plist["ExitTimeOut"], plist["KeepAlive"]) == (LABEL, 35, {"SuccessfulExit": False})


@pytest.mark.parametrize(
    ("act", "commands"),
    [
        (lambda one: one.start(), ["systemctl daemon-reload", "systemctl enable ollmlx.service",
                                   "systemctl restart ollmlx.service", "loginctl enable-linger"]),
        (lambda one: one.restart(), ["systemctl daemon-reload", "systemctl restart ollmlx.service"]),
        (lambda one: one.stop(), ["systemctl disable --now ollmlx.service"]),
    ],
)  # fmt: skip
def test_systemd_is_told(act: Callable[[Manager], object], commands: list[str]) -> None:
    ran = Commands()
    act(manager("linux", ran))
    assert [line.removesuffix(line.partition("linger")[2]) for line in ran.ran] == commands


def test_a_session_that_may_not_linger_is_told_the_command() -> None:
    (line,) = manager("linux", Commands(loginctl=FAILED)).start()
    assert "sudo loginctl enable-linger" in line


def test_launchd_loads_an_agent_and_waits_for_the_end_of_the_one_before() -> None:
    ran = Commands()
    loaded = [DONE, DONE, Output(113, "", "Could not find service")]

    def run(command: Sequence[str]) -> Output:
        answer = ran(command)
        return loaded.pop(0) if command[1] == "print" else answer

    home = Path("/Users/anna")
    Launchd(run, home, home / ".ollmlx", sleep=lambda seconds: None).restart()
    assert [line.removeprefix("launchctl ") for line in ran.ran] == [
        f"print {SERVICE}",
        f"bootout {SERVICE}",
        f"print {SERVICE}",
        f"print {SERVICE}",
        f"enable {SERVICE}",
        f"bootstrap gui/{os.getuid()} /Users/anna/Library/LaunchAgents/{LABEL}.plist",
    ]


@pytest.mark.parametrize(
    ("platform", "script", "running", "words"),
    [
        ("linux", {"systemctl_show": Output(0, SHOWN.format("active", "running", 7, 2, "success"), ""),
                   "loginctl": Output(0, "yes\n", "")},
         True, "active (running), enabled, restarted 2 times, goes on after logout"),
        ("linux", {"systemctl_show": Output(0, SHOWN.format("failed", "failed", 0, 0, "exit-code"), ""),
                   "loginctl": FAILED},
         False, "failed (failed), enabled, last result: exit-code"),
        ("darwin", {"launchctl": Output(0, PRINTED, "")}, True, "running, last exit code: 1"),
        ("darwin", {"launchctl": Output(113, "", "Could not find service")}, False, "not loaded"),
    ],
)  # fmt: skip
def test_the_state_is_told_in_the_managers_words(
    platform: str, script: dict[str, Output], running: bool, words: str
) -> None:
    state = manager(platform, Commands(**script)).state()
    assert (state.running, state.words, state.pid) == (running, words, 7 if running else None)


def test_a_machine_without_a_manager_is_told_what_to_use() -> None:
    for platform, script in (("linux", {"systemctl": FAILED}), ("darwin", {"launchctl": FAILED})):
        with pytest.raises(Unsupported) as refused:
            manager(platform, Commands(**script)).check()
        assert refused.value.hint == "ollmlx serve"
    with pytest.raises(Unsupported):
        manager("win32", Commands())


def test_programs_that_fail_or_are_missing_say_so() -> None:
    assert run_program(("ollmlx-no-such-program",)).code == MISSING
    with pytest.raises(OllmlxError, match="exit status 3"):
        checked(run_program, (sys.executable, "-c", "raise SystemExit(3)"))


def test_install_prints_the_file_without_writing_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "", "service", "install", "--print"]) == 0
    assert "serve" in capsys.readouterr().out
    assert not [file for file in home.rglob("*") if file.is_file()]
