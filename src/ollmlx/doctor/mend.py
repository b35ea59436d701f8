"""Runs the safe commands of findings in the order of the report, and examines the machine again after each finding.

Before a file or a folder is changed, a copy is kept beside it. Variables that a command sets are kept in this process
for the next examination, and told: no program can set those of the shell that started it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from ollmlx.doctor.report import Report
from ollmlx.errors.findings import Finding, SafeCommand, Severity
from ollmlx.storekit.files import free_name

MOST = 100
"""Findings that are mended at most: a command that makes new ones does not run for ever."""
SHELL = """ollmlx() {{ {python} -P -m ollmlx "$@"; }}
{{
{command}
}} || exit
exec {python} -I -S -c {program} {number}"""
"""Runs a command with this program as `ollmlx`, then writes its variables to a descriptor."""
VARIABLES = 'import os, sys; os.write(int(sys.argv[1]), b"\\0".join(b"=".join(one) for one in os.environb.items()))'
OF_SHELLS = ("PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE")

FindingKey = tuple[str, str, tuple[str, ...]]


@dataclass
class Mender:
    """Mends what is safe. `examine`: examines the machine with `environ`. `agree`: asks whether to run the commands.

    `typed`: the commands that set variables, and whether their finding was an error.
    """

    examine: Callable[[], Report]
    agree: Callable[[Finding], bool]
    tell: Callable[[str], None]
    environ: MutableMapping[str, str]
    typed: dict[str, bool] = field(default_factory=dict)
    copied: set[Path] = field(default_factory=set)

    def mend(self) -> Report:
        """Return the report of the machine in which nothing safe is left to do, or was agreed to."""
        tried: set[FindingKey] = set()
        report = self.examine()
        while len(tried) < MOST and (finding := _next(report, tried)) is not None:
            tried.add(_key(finding))
            if self.agree(finding) and all(self._run(command, finding) for command in finding.safe):
                report = self.examine()
                gone = _key(finding) not in map(_key, report.findings)
                self.tell(f"{'mended' if gone else 'still there'}: {finding.code} {finding.title}")
        return report

    def _run(self, command: SafeCommand, finding: Finding) -> bool:
        """Run a command in a shell. Return True if it succeeded."""
        try:
            self._keep_copy(command.changes)
            status, after = run_in_shell(command, self.environ)
        except OSError as error:
            self.tell(f"not run: {command}: {error.strerror or error}")
            return False
        if status:
            self.tell(f"failed with exit status {status}: {command}")
            return False
        if after != self.environ:
            self.environ.clear()
            self.environ.update(after)
            self.typed[command] = finding.severity is Severity.ERROR
        return True

    def _keep_copy(self, path: Path | None) -> None:
        """Keep a copy of what will be changed, once: it is what the person had."""
        if path is not None and path not in self.copied and os.path.lexists(path):
            self.tell(f"kept a copy: {keep_copy(path)}")
            self.copied.add(path)


def _key(finding: Finding) -> FindingKey:
    """Return what makes a finding the same after some time: its evidence may count bytes and seconds."""
    return finding.code, finding.subject, finding.commands


def _next(report: Report, tried: set[FindingKey]) -> Finding | None:
    """Return the first finding that a safe command mends and that was not tried."""
    problems = (one for one in report.findings if one.severity in (Severity.ERROR, Severity.WARNING))
    return next((one for one in problems if one.safe and _key(one) not in tried), None)


def keep_copy(path: Path) -> Path:
    """Copy a file, or link the files of a folder, to a name beside it that no store lists. Return the name."""
    copy = free_name(path.with_name(f".{path.name.lstrip('.')}.before-fix"))
    if path.is_dir():
        try:
            shutil.copytree(path, copy, symlinks=True, copy_function=_link)
        except OSError:
            shutil.rmtree(copy, ignore_errors=True)  # half a copy on a disk that is full now
            raise
        return copy
    with path.open("rb") as source, open(copy, "xb", opener=_private) as target:  # it may hold keys
        shutil.copyfileobj(source, target)
    shutil.copystat(path, copy)
    return copy


def _link(source: str, target: str) -> None:
    """Give a file a second name: what writes a model replaces files and never changes them in place."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def run_in_shell(command: str, environ: MutableMapping[str, str]) -> tuple[int, dict[str, str]]:
    """Run a command as it would be typed; its output goes to standard error. Return its status and its variables."""
    with tempfile.TemporaryFile() as variables:
        number = variables.fileno()
        python, program = shlex.quote(sys.executable), shlex.quote(VARIABLES)
        script = SHELL.format(python=python, command=command, program=program, number=number)
        done = subprocess.run(["/bin/sh", "-c", script], env=dict(environ), stdout=2, pass_fds=(number,), check=False)
        variables.seek(0)
        pairs = (os.fsdecode(pair).partition("=") for pair in variables.read().split(b"\0") if pair)
        after = {name: value for name, _, value in pairs}
    own = {name: environ[name] for name in OF_SHELLS if name in environ}
    return done.returncode, {name: value for name, value in after.items() if name not in OF_SHELLS} | own
