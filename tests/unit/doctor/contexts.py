"""Contexts for the checks: a healthy machine, and parts that replace some of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ollmlx import __version__
from ollmlx.cli.verbs import VERBS, verb_parser
from ollmlx.doctor.context import CheckContext, build_context, package_version
from ollmlx.doctor.daemon import DaemonClient, DaemonReply, NoReply
from ollmlx.doctor.machine import Completed, Machine, Process, Processes, Vitals
from ollmlx.doctor.report import Report
from ollmlx.doctor.run import all_checks, examine
from ollmlx.errors.findings import Finding, Severity
from ollmlx.settings.trust import TrustedFiles
from ollmlx.text.addresses import Address

GB = 1000**3
HEALTHY = Machine(
    "linux",
    ram=64 * GB,
    available=40 * GB,
    swap_total=8 * GB,
    files_limit=65536,
    free_space=lambda _: 400 * GB,
    free_inodes=lambda _: 10**6,
    flags=lambda _: (),
)
MAC = replace(HEALTHY, system="darwin", architecture="arm64", macos=(15, 1))
NOW = 1_800_000_000.0
VERSIONS = {"mlx": "0.32.4", "mlx-cpu": "0.32.4"}
READY = {
    "/api/version": DaemonReply(200, {"version": "0.12.0", "ollmlx": __version__}),
    "/readyz": DaemonReply(200, {}),
}


def version_of(name: str, versions: Mapping[str, str | None] = VERSIONS) -> str | None:
    """Return the version of a package in a table; of one that is not in it, the installed one."""
    return versions[name] if name in versions else package_version(name)


class FakeDaemon(DaemonClient):
    """Answers from a table; raises NoReply for any other path."""

    def __init__(self, answers: Mapping[str, DaemonReply]) -> None:
        super().__init__(Address.parse(""))
        self.answers = answers

    async def get(self, path: str, seconds: float = 1.0) -> DaemonReply:
        if path not in self.answers:
            raise NoReply("connection refused")
        return self.answers[path]


def daemon(path: str = "", answer: Any = None, status: int = 200) -> FakeDaemon:
    """Return a healthy daemon that answers one path differently."""
    return FakeDaemon({**READY, **({path: DaemonReply(status, answer)} if path else {})})


@dataclass
class FakeProcesses(Processes):
    """Ports and processes from fields."""

    listening: Process | None = None
    open: bool = False
    refusal: str | None = None
    environments: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    living: Sequence[int] = (77,)
    places: tuple[str, ...] = ()
    states: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parent: str = ""
    started: float = 0.0
    vital: Mapping[str, Any] = field(default_factory=dict)

    def listener(self, port: int) -> Process | None:
        return self.listening

    def connects(self, host: str, port: int, seconds: float = 0.5) -> bool:
        return self.open

    def bindable(self, host: str, port: int) -> str | None:
        remote = self.refusal is not None and self.refusal.startswith("Cannot assign")
        return self.refusal if port == 11434 or remote else None

    def listens(self, pid: int) -> tuple[str, ...]:
        return self.places

    def variables(self, pid: int) -> Mapping[str, str]:
        return self.environments.get(pid, {})

    def get(self, pid: int) -> Process | None:
        state = self.states.get(str(pid), "")
        alive = pid in self.living
        return Process(pid, "python", status=state, parent=self.parent, started=self.started) if alive else None

    def vitals(self, pid: int, seconds: float = 1.0) -> Vitals:
        return Vitals(**self.vital)

    def addresses(self, name: str) -> tuple[str, ...]:
        return tuple(self.names.get(name, ("127.0.0.1", "::1")))


def child(status: int | None, err: str = "", out: str = "") -> Callable[[Sequence[str], float], Any]:
    """Return a function that stands for every child process."""

    async def run(argv: Sequence[str], seconds: float) -> Completed:
        return Completed(status, out, err)

    return run


def healthy(tmp_path: Path, toml: str = "", environ: Mapping[str, str] | None = None) -> CheckContext:
    """Return the context of a healthy machine with these settings. The plugins are the real ones."""
    settle(tmp_path, toml)
    return context_of(tmp_path, environ)


def settle(tmp_path: Path, toml: str = "") -> None:
    """Create the folders and a settings file that is trusted."""
    (tmp_path / "models" / "mlx").mkdir(parents=True, exist_ok=True)
    (tmp_path / "state").mkdir(mode=0o700, exist_ok=True)
    file = tmp_path / "ollmlx.toml"
    storage = f'models = "{tmp_path / "models"}"\nstate = "{tmp_path / "state"}"'
    file.write_text(f"[storage]\n{storage}\n{toml}", encoding="utf-8")
    file.chmod(0o600)
    TrustedFiles({"HOME": str(tmp_path)}).add(file)


def context_of(tmp_path: Path, environ: Mapping[str, str] | None = None) -> CheckContext:
    """Return the context of these folders, on a healthy machine with a healthy daemon."""
    context = build_context(environ={"HOME": str(tmp_path), **(environ or {})}, cwd=tmp_path)
    return replace(
        context,
        machine=HEALTHY,
        daemon=FakeDaemon(READY),
        processes=FakeProcesses(),
        child=child(0),
        version_of=version_of,
        now=lambda: NOW,
    )


def examined(context: CheckContext, *, blas: bool = False) -> Report:
    """Return the report of every check; without the BLAS check, which measures this machine."""
    return examine([one for one in all_checks(context) if blas or one.check.name != "blas"], context, patience=60)


def codes(context: CheckContext) -> list[str]:
    return [finding.code for finding in examined(context).findings]


def expect(context: CheckContext, code: str, evidence: str, fix: str) -> Finding:
    """Return the finding with a code. `evidence` is in its title or evidence, `fix` in one of its commands.

    Every other finding must also have a command, and every command of ollmlx must be valid.
    """
    report = examined(context)
    for finding in report.findings:
        assert finding.commands or finding.severity is Severity.INFO, f"{finding.code} has no command"
        for command in (*finding.commands, *finding.instead):
            check_command(command)
    said = [(one, " ".join((one.title, *one.evidence))) for one in report.findings if one.code == code]
    found = next((one for one, words in said if evidence in words), None)
    assert found is not None, (
        f"{code} with {evidence!r} is not among {[(one.code, one.title) for one in report.findings]}"
    )
    assert not fix or any(fix in command for command in (*found.commands, *found.instead)), found
    return found


def check_command(command: str) -> None:
    """Parse a command of ollmlx with the real command line."""
    words = [word for word in shlex.split(command, comments=True) if "=" not in word]
    if words[:1] != ["ollmlx"] or words[1].startswith("--"):
        return
    assert words[1] in VERBS, command
    verb_parser(words[1])[0].parse_intermixed_args(words[2:])
