"""The command line as a whole: verbs, options, exit codes, imports."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cli.conftest import CommandLine, ScriptedDaemon

from ollmlx.cli import main as command
from ollmlx.cli.verbs import VERBS


@pytest.mark.parametrize(("argument", "most"), [("--version", 200), ("--help", 100), ("version", 200)])
def test_a_short_command_imports_few_modules(daemon: ScriptedDaemon, argument: str, most: int) -> None:
    daemon.says("GET", "/api/version", {"version": "0.33.0"})
    command_line = [sys.executable, "-X", "importtime", "-m", "ollmlx", argument]
    done = subprocess.run(command_line, check=True, capture_output=True, text=True, timeout=120)
    assert done.stderr.count("import time:") < most


@pytest.mark.parametrize("verb", ["list", "ps", "pull", "show"])
def test_a_verb_imports_no_heavy_library(verb: str) -> None:
    heavy = ["pydantic", "prompt_toolkit", "rich", "aiohttp", "quart", "asyncio", "httpx2"]
    program = f"import sys; from ollmlx.cli.verbs import verb_parser; verb_parser({verb!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    assert not set(heavy) & set(done.stdout.split())


def test_help_names_every_verb_and_its_summary(ollmlx: CommandLine) -> None:
    outcome = ollmlx("--help")
    assert outcome.code == 0
    assert all(f"  {verb:<10} {summary}\n" in outcome.out for verb, (_, summary) in VERBS.items())
    assert ollmlx().out == ollmlx("help").out == ollmlx("-h").out == outcome.out


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_has_a_help_page(ollmlx: CommandLine, verb: str) -> None:
    outcome = ollmlx(verb, "--help")
    assert outcome.code == 0
    assert f"usage: ollmlx {verb}" in outcome.out
    assert ollmlx("help", verb).out == outcome.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("lisst",), "did you mean 'list'"),
        (("--bogus",), "--bogus"),
        (("list", "--bogus"), "--bogus"),
        (("cp", "one"), "DESTINATION"),
        (("rm",), "MODEL"),
        (("--host", "not a host", "list"), "invalid address"),
        (("run", "parrot", "hi", "--think=maybe"), "is not true, false, low"),
        (("run", "parrot", "hi", "--keepalive", "5x"), "5x"),
        (("run", "parrot", "hi", "--format", "[1]"), "neither 'json' nor a JSON schema"),
        (("run", "parrot", "hi", "--truncate", "2"), "is not true or false"),
    ],
)
def test_wrong_usage_ends_with_code_two(ollmlx: CommandLine, argv: tuple[str, ...], message: str) -> None:
    outcome = ollmlx(*argv)
    assert outcome.code == 2
    assert message in outcome.err


def test_options_may_stand_between_positionals() -> None:
    args, _ = command.parse("run", ["m", "--think", "--verbose", "why", "so"])
    assert (args.model, args.prompt, args.think, args.verbose) == ("m", ["why", "so"], True, True)


def test_without_a_daemon_the_command_that_starts_one_is_named(
    ollmlx: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:1")
    outcome = ollmlx("list")
    assert outcome.code == 1
    assert "no daemon answers at http://127.0.0.1:1" in outcome.err
    assert "hint: ollmlx serve" in outcome.err


@pytest.mark.fault(48)
@pytest.mark.parametrize(
    ("toml", "reported"),
    [
        ("[server", "not valid TOML"),
        ("[server]\nhosst = 1", "[server] hosst: unknown key; did you mean 'host'? ({file}, line 2) CFG003"),
        ("[runners]\nparallel = 'x'", "({file}, line 2) CFG004"),
        ("[plugins.nothing]\na = 1", "no plugin is called 'nothing'"),
        ("[plugins]\nrequired = ['nothing']", "required plugin 'nothing' is off"),
    ],
)
def test_unusable_settings_end_the_daemon_with_2_before_it_listens(
    ollmlx: CommandLine, tmp_path: Path, toml: str, reported: str
) -> None:
    file = tmp_path / "o.toml"
    file.write_text(toml, encoding="utf-8")
    outcome = ollmlx("--config", str(file), "serve")
    assert outcome.code == 2
    assert reported.format(file=file) in outcome.err


def test_ctrl_c_ends_with_130_and_without_a_traceback(ollmlx: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ollmlx.cli.daemon.run_version", interrupted)
    outcome = ollmlx("version")
    assert (outcome.code, outcome.err) == (130, "")


def test_a_closed_pipe_ends_the_command_without_a_message(daemon: ScriptedDaemon) -> None:
    daemon.says("GET", "/api/tags", {"models": [_model(f"m{number}:latest") for number in range(5000)]})
    done = subprocess.run(
        ["/bin/bash", "-c", f"{shlex.quote(sys.executable)} -m ollmlx list | head -n 1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=120,
        env=dict(os.environ),
    )
    assert done.stdout.startswith("NAME")
    assert done.stderr == ""
    assert done.returncode == command.BROKEN_PIPE


def _model(name: str) -> dict[str, object]:
    return {"name": name, "digest": "a" * 64, "size": 1, "modified_at": "2026-01-01T00:00:00Z"}
