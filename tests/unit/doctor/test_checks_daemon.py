"""Checks of the daemon, its runners and its security."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.doctor.contexts import (
    READY,
    FakeDaemon,
    FakeProcesses,
    codes,
    context_of,
    daemon,
    examined,
    expect,
    healthy,
)

from ollmlx import __version__
from ollmlx.doctor.checks.runners import leftovers
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.daemon import DaemonClient, DaemonReply, NoReply
from ollmlx.doctor.machine import Process, Processes
from ollmlx.errors.findings import Severity
from ollmlx.text.addresses import Address

PYTHON = Process(7, "python3", user="eve", uid=os.getuid())
ROOT = Process(7, "ollmlx", user="root", uid=os.getuid() + 1)

DRAINING = {"problems": ["the server is shutting down; 1 running request may go on for another 7 s"], "stopping": True}


def failed(code: str | None, error: str, **more: Any) -> FakeDaemon:
    """A daemon with one runner that failed."""
    runner = {"name": "tiny", "state": "failed", "restarts": 0, "code": code, "error": error, "last_words": ["bye"]}
    return daemon("/api/daemon", {"runners": [{**runner, **more}]})


MUTE = FakeDaemon(
    {
        **READY,
        "/api/version": DaemonReply(404, None),
        "/api/daemon": DaemonReply(200, {"version": __version__, "protocol": 1, "pid": 77}),
    }
)

NOBODY = FakeDaemon({})
OTHER = "127.0.0.1:11435"
ELSEWHERE = daemon("/api/daemon", {"pid": 77, "models_folder": "/m"})
NOT_OLLMLX = daemon("/api/version", None, 404)
DAEMONS: list[tuple[str, dict[str, Any], str, str]] = [
    ("NET003", {"daemon": NOBODY}, "no daemon answers at 127.0.0.1:11434", "ollmlx serve"),
    ("NET004", {"daemon": daemon("/api/version", {"version": "0.12.0"})}, "Ollama 0.12.0 answers at", OTHER),
    ("NET004", {"daemon": daemon("/api/version", ["x"])}, "a program that is not ollmlx", OTHER),
    ("NET004", {"daemon": NOT_OLLMLX, "processes": FakeProcesses(listening=PYTHON)}, "python3, pid 7, user eve", OTHER),
    ("NET004", {"daemon": daemon("/api/version", {"ollmlx": "0.0.1"})}, "is ollmlx 0.0.1", "ollmlx serve"),
    ("PLG006", {"daemon": MUTE}, "does not serve Ollama's API", "kill 77"),
    ("SEC004", {"daemon": daemon("/api/version", {}, 401)}, "wants another API key", "export OLLAMA_API_KEY"),
    ("NET001", {"daemon": NOBODY, "processes": FakeProcesses(open=True)}, "does not speak HTTP", OTHER),
    ("NET001", {"daemon": NOBODY, "processes": FakeProcesses(refusal="no such host")}, "no such host", OTHER),
    ("NET008", {"daemon": daemon("/readyz", {"problems": ["it drains"]}, 503)}, "it drains", "ollmlx doctor storage"),
    ("NET008", {"daemon": daemon("/readyz", DRAINING, 503)}, "may go on for another 7 s", "ollmlx serve"),
    ("NET004", {"processes": FakeProcesses(listening=ROOT)}, "as the user root", OTHER),
    ("NET007", {"environ": {"HTTP_PROXY": "http://proxy:3128"}}, "HTTP_PROXY is set", "export NO_PROXY="),
    (
        "NET004",
        {"daemon": daemon("/api/daemon", {"pid": 77, "models_folder": "/m"})},
        "keeps its models in /m",
        "OLLAMA_MODELS=",
    ),
    ("RUN002", {"daemon": failed("RUN002", "the runner of tiny was killed by SIGKILL")}, "bye", "ollmlx logs"),
    ("RUN002", {"daemon": failed(None, "", state="ready", restarts=2)}, "replaced 2 times", "ollmlx logs"),
    ("RUN004", {"daemon": failed("RUN004", "made no progress")}, "bye", "ollmlx stop tiny"),
    ("RUN005", {"daemon": failed("RUN005", "ran out of memory")}, "ran out of memory", "ollmlx ps"),
    (
        "RUN018",
        {"daemon": failed(None, "", state="ready", missed="the system prompt changes near token 14")},
        "X-Ollmlx-Cache",
        "ollmlx ps -v",
    ),
    (
        "SEC009",
        {"daemon": failed(None, "", state="ready", notes=["fast", "not confined: files", "not confined: the network"])},
        "not confined: the network",
        "cat /sys/kernel/security/lsm",
    ),
    ("RUN008", {"daemon": failed("RUN008", "speaks Runner Protocol 7")}, "Protocol 7", "ollmlx plugin list"),
]


@pytest.mark.finding("NET001", "NET003", "NET004", "NET007", "NET008", "SEC004")
@pytest.mark.finding("PLG006", "RUN002", "RUN004", "RUN005", "RUN008", "RUN018", "SEC009")
@pytest.mark.parametrize(("code", "change", "evidence", "fix"), DAEMONS)
def test_a_problem_of_the_daemon_is_reported_with_its_fix(
    tmp_path: Path, code: str, change: dict[str, Any], evidence: str, fix: str
) -> None:
    context = replace(healthy(tmp_path), **change)
    expect(context, code, evidence, fix)
    assert codes(context) == [code]


@pytest.mark.finding("PLG006")
def test_ollamas_routes_are_reported_with_the_line_that_switches_them_off(tmp_path: Path) -> None:
    context = replace(healthy(tmp_path, '[plugins]\ndisabled = ["ollama_api"]'), daemon=MUTE)
    finding = expect(context, "PLG006", "ollmlx.toml", "kill 77")
    assert any("EDITOR" in command for command in finding.commands)
    assert finding.severity is Severity.WARNING


def test_a_daemon_and_runners_without_problems_are_noted(tmp_path: Path) -> None:
    runner = {"name": "tiny", "state": "ready", "pid": 7, "restarts": 0, "memory": 5_000_000}
    report = examined(replace(healthy(tmp_path), daemon=daemon("/api/daemon", {"runners": [runner]})))
    assert report.findings == ()
    assert [note.title for note in report.notes("server")] == [f"ollmlx {__version__} answers at 127.0.0.1:11434"]
    assert [note.title for note in report.notes("runners")] == ["tiny: ready, pid 7, 5.0 MB"]


def test_the_error_of_the_last_background_daemon_is_reported(tmp_path: Path) -> None:
    context = replace(healthy(tmp_path), daemon=FakeDaemon({}))
    (tmp_path / "state/serve.out").write_text("Error: the disk is full\n  hint: …\n", encoding="utf-8")
    expect(context, "NET003", "printed: Error: the disk is full", "ollmlx serve")


def test_another_path_to_the_same_models_folder_is_no_finding(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "models")
    assert (
        codes(replace(context, daemon=daemon("/api/daemon", {"pid": 77, "models_folder": str(tmp_path / "link")})))
        == []
    )


@pytest.mark.parametrize("reported", [None, [], {"runners": 3}, {"runners": ["x", None]}, {"models_folder": 1}])
def test_a_malformed_status_of_the_daemon_crashes_no_check(tmp_path: Path, reported: Any) -> None:
    assert codes(replace(healthy(tmp_path), daemon=daemon("/api/daemon", reported))) == []


KEY = f'[security]\napi_keys = ["{"k" * 40}"]'
OPEN = '[server]\nhost = "[::]:1"'
OPENINGS = [
    ("SEC001", '[server]\nhost = "0.0.0.0"', 0o600, "are refused", "openssl rand", Severity.WARNING),
    ("SEC001", f"{OPEN}\n[security]\nallow_no_auth = true", 0o600, "are answered", "openssl rand", Severity.ERROR),
    ("SEC006", '[server]\norigins = ["*"]', 0o600, "any web page", "+5 ", Severity.WARNING),
    ("SEC007", KEY, 0o644, "mode 644", "chmod 600", Severity.WARNING),
    ("SEC008", '[security]\napi_keys = ["short"]', 0o600, "fewer than 16", "openssl rand", Severity.WARNING),
    ("SEC008", '[security.keys.anna]\nkey = "short"', 0o600, "fewer than 16", "openssl rand", Severity.WARNING),
    ("SEC007", f'[security.keys.anna]\nsha256 = "{"0" * 64}"', 0o644, "mode 644", "chmod 600", Severity.WARNING),
]


@pytest.mark.finding("SEC001", "SEC006", "SEC007", "SEC008")
@pytest.mark.parametrize(("code", "toml", "mode", "evidence", "fix", "severity"), OPENINGS)
def test_open_addresses_and_readable_keys_are_reported(
    tmp_path: Path, code: str, toml: str, mode: int, evidence: str, fix: str, severity: Severity
) -> None:
    context = healthy(tmp_path, toml)
    (tmp_path / "ollmlx.toml").chmod(mode)
    assert expect(context, code, evidence, fix).severity is severity
    assert codes(context) == [code]


def test_an_open_address_with_a_key_is_no_finding(tmp_path: Path) -> None:
    for key in (KEY, f'[security.keys.anna]\nsha256 = "{"0" * 64}"'):
        assert examined(healthy(tmp_path, f'[server]\nhost = "0.0.0.0"\n{key}')).findings == ()


@pytest.mark.finding("RUN007")
@pytest.mark.parametrize(("living", "nonce", "expected"), [((), "n", ["RUN007"]), ((), "m", []), ((5,), "n", [])])
def test_a_runner_that_was_left_behind_is_reported(
    tmp_path: Path, living: Sequence[int], nonce: str, expected: list[str]
) -> None:
    processes = FakeProcesses(environments={9: {"OLLMLX_RUNNER_NONCE": nonce}}, living=living)
    context = replace(healthy(tmp_path), processes=processes, daemon=FakeDaemon(READY))
    (tmp_path / "state/runners").mkdir()
    record = {"runner": "m", "pid": 9, "started": "", "boot": "", "nonce": "n"}
    (tmp_path / "state/runners/9.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "state/ollmlx.lock").write_text("5\n", encoding="ascii")
    assert codes(context) == expected
    if expected:
        expect(context, "RUN007", "pid 9", "kill -9 9")


async def test_records_of_runners_that_cannot_be_read_are_noted(tmp_path: Path) -> None:
    context = healthy(tmp_path)
    storage = context.settings.storage.model_copy(update={"state": tmp_path / ("x" * 300)})
    (note,) = await leftovers.run(replace(context, settings=context.settings.model_copy(update={"storage": storage})))
    assert note.severity is Severity.SKIPPED
    assert "File name too long" in note.title


@pytest.mark.finding("NET002")
def test_a_daemon_of_this_state_folder_at_another_address_is_found(tmp_path: Path) -> None:
    context = replace(healthy(tmp_path), daemon=FakeDaemon({}))
    (tmp_path / "state/ollmlx.lock").write_text("5\n", encoding="ascii")
    there = replace(context, processes=FakeProcesses(living=(5,), places=("127.0.0.1:8000",)))
    found = expect(there, "NET002", "it listens on 127.0.0.1:8000", "export OLLAMA_HOST=127.0.0.1:8000")
    assert found.instead == ("kill 5", "ollmlx serve")
    silent = expect(replace(context, processes=FakeProcesses(living=(5,))), "NET002", "pid 5", "kill 5")
    assert silent.instead == ()
    assert codes(replace(context, processes=FakeProcesses())) == ["NET003"], "the lock of a daemon that is gone"


OURS = Process(7, "python3", ("/venv/bin/python", "/venv/bin/ollmlx", "serve"), "eve", os.getuid())
STOPPED = replace(OURS, status="stopped")


@pytest.mark.parametrize(
    ("process", "title", "command"),
    [(OURS, "does not answer", "ollmlx logs"), (STOPPED, "is suspended", "kill -CONT 7")],
)
def test_a_daemon_that_accepts_connections_and_does_not_answer_is_not_called_another_program(
    tmp_path: Path, process: Process, title: str, command: str
) -> None:
    processes = FakeProcesses(open=True, listening=process)
    expect(replace(healthy(tmp_path), daemon=NOBODY, processes=processes), "NET008", title, command)


def test_an_ollmlx_without_any_route_of_its_own_is_not_called_another_program(tmp_path: Path) -> None:
    context = replace(healthy(tmp_path), daemon=NOT_OLLMLX, processes=FakeProcesses(listening=OURS))
    expect(context, "PLG006", "does not serve Ollama's API", "kill 7")


def test_a_remote_host_is_neither_called_reachable_from_other_machines_nor_an_address_to_listen_at(
    tmp_path: Path,
) -> None:
    context = healthy(tmp_path, environ={"OLLAMA_HOST": "192.0.2.7:11434"})
    context = replace(context, daemon=NOBODY, processes=FakeProcesses(refusal="Cannot assign requested address"))
    found = expect(context, "NET003", "no address of this machine", "unset OLLAMA_HOST")
    assert found.severity is Severity.ERROR
    assert codes(context) == ["NET003"]


def test_a_name_server_that_does_not_answer_loses_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: release.wait(60))
    try:
        refusal = Processes().bindable("slow.example", 11434)
        assert refusal is not None
        assert "could not be looked up" in refusal
        assert Processes().connects("slow.example", 11434) is False
        context = replace(healthy(tmp_path, environ={"OLLAMA_HOST": "slow.example"}), processes=Processes())
        context = replace(context, daemon=DaemonClient(context.address))
        expect(context, "NET003", "could not be looked up", "unset OLLAMA_HOST")
        assert codes(context) == ["NET003"]
    finally:
        release.set()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses connections")
async def test_a_host_that_drops_packets_costs_only_the_time_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollmlx.doctor.daemon.CONNECT_SECONDS", 0.2)
    with ExitStack() as open_now:
        server = open_now.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # the queue is full then, and the system drops packets
            waiting = open_now.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        client = DaemonClient(Address.parse(f"127.0.0.1:{server.getsockname()[1]}"))
        with pytest.raises(NoReply, match=r"no connection within 0\.2 s"):
            await client.get("/api/version", 60.0)


@pytest.mark.parametrize("code", ["RUN002", "RUN004"])
def test_the_commands_for_a_runner_that_failed_do_not_only_hide_it(tmp_path: Path, code: str) -> None:
    context = replace(healthy(tmp_path), daemon=failed(code, "killed by SIGKILL"))
    found = expect(context, code, "bye", "ollmlx logs")
    assert found.commands[-1] == "ollmlx doctor --model tiny", "it proves whether the model runs"
    assert found.safe == ()


def using(context: CheckContext, *rows: tuple[str, Any, str]) -> CheckContext:
    """Return the context with a daemon that uses these settings: key, value and the kind of the origin."""
    settings = [{"key": key, "value": value, "origin": origin, "source": origin} for key, value, origin in rows]
    told = {"settings": settings, "files": [str(context.file)]}
    answers = {"/api/daemon": {"pid": 77}, "/api/daemon/settings": told}
    return replace(
        context, daemon=FakeDaemon({**READY, **{path: DaemonReply(200, one) for path, one in answers.items()}})
    )


KEEP = '[runners]\nkeep_alive = "10m"'
SPACE = "[memory]\nshare = 0.5"
IN_USE: list[tuple[str, dict[str, str], tuple[str, Any, str], tuple[str, ...], str]] = [
    (KEEP, {}, ("runners.keep_alive", "5m", "default"), ("kill -HUP 77",), "5m (default) there, 10m"),
    ("", {}, ("runners.keep_alive", "10m", "file"), ("kill -HUP 77",), "was changed after"),
    (SPACE, {}, ("memory.share", 0.75, "default"), ("kill 77", "ollmlx serve"), "was changed after"),
    ("", {"OLLAMA_CONTEXT_LENGTH": "8192"}, ("runners.context_length", None, "default"), ("kill 77", "ollmlx serve"),
     "without OLLAMA_CONTEXT_LENGTH"),
    ('[aliases]\na = "b"', {}, ("x.y", 1, "default"), ("kill -HUP 77",), "aliases.a: not set there, b"),
    ("", {}, ("models.m.from", "b", "file"), ("kill -HUP 77",), "models.m.from"),
    (KEEP, {}, ("runners.keep_alive", "1h", "ollama"), (), ""),
    ("", {}, ("runners.keep_alive", "1h", "command line"), (), ""),
    (KEEP, {}, ("runners.keep_alive", "10m", "file"), (), ""),
    ("", {}, ("runners.of_another_version", 1, "default"), (), ""),
]  # fmt: skip


@pytest.mark.parametrize(("toml", "shell", "row", "commands", "evidence"), IN_USE)
def test_settings_that_the_daemon_does_not_use_are_told_unless_it_was_started_with_its_own(
    tmp_path: Path, toml: str, shell: dict[str, str], row: tuple[str, Any, str], commands: tuple[str, ...],
    evidence: str,
) -> None:  # fmt: skip
    context = using(healthy(tmp_path, toml, shell), row)
    findings = [one for one in examined(context).findings if one.code == "NET004"]
    assert [one.commands for one in findings] == ([commands] if commands else [])
    assert all(evidence in " ".join(one.evidence) for one in findings)


def test_changes_that_the_daemon_has_read_and_that_wait_for_a_restart_are_told(tmp_path: Path) -> None:
    context = using(healthy(tmp_path, SPACE), ("memory.share", 0.8, "file"), ("runners.keep_alive", "5m", "default"))
    found = expect(context, "NET004", "memory.share: 0.8 (file) there, 0.5", "kill 77")
    assert found.safe == ()


def test_a_file_that_was_made_after_the_start_is_read_when_the_daemon_reads_again(tmp_path: Path) -> None:
    context = using(replace(healthy(tmp_path), file=None), ("runners.keep_alive", "5m", "default"))
    own = tmp_path / ".config/ollmlx/ollmlx.toml"
    own.parent.mkdir(parents=True)
    own.write_text((tmp_path / "ollmlx.toml").read_text() + KEEP, encoding="utf-8")
    (tmp_path / "ollmlx.toml").unlink()
    assert isinstance(context.daemon, FakeDaemon)
    context.daemon.answers["/api/daemon/settings"].body["files"] = []
    made = replace(context_of(tmp_path), daemon=context.daemon)
    assert expect(made, "NET004", "10m", "").commands == ("kill -HUP 77",)


def test_a_daemon_that_reads_another_file_is_told(tmp_path: Path) -> None:
    context = using(healthy(tmp_path, KEEP), ("runners.keep_alive", "5m", "default"))
    found = expect(replace(context, file=tmp_path / "other.toml"), "NET004", "the daemon reads", "kill 77")
    assert found.safe == ()


@pytest.mark.parametrize(("shell", "command"), [({}, "restart"), ({"OLLAMA_CONTEXT_LENGTH": "8192"}, "install")])
def test_a_daemon_that_is_a_service_is_restarted_by_its_manager(
    tmp_path: Path, shell: dict[str, str], command: str
) -> None:
    unit = tmp_path / ".config/systemd/user/ollmlx.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    rows = (("memory.share", 0.75, "default"), ("runners.context_length", None, "default"))
    context = using(healthy(tmp_path, SPACE, shell), *rows)
    context = replace(context, processes=FakeProcesses(parent="systemd"))
    assert expect(context, "NET004", "pid 77", "").commands == (f"ollmlx service {command}",)
