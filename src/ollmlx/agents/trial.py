"""A trial of an agent with a model: it mends a small project, offline, and each step on the way is looked for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ollmlx.agents.profile import Agent, ServedModel
from ollmlx.agents.project import TASK, Project
from ollmlx.agents.recorder import RecordedCall, Recorder
from ollmlx.supervisor.process.guarded import guarded_group
from ollmlx.text.addresses import Address

PATIENCE = 1800.0
"""Seconds for the whole task: a model on a CPU needs minutes to read an agent's instructions."""
INTERVAL = 0.2
SHOWN = 300
HELD = ("/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh")
"""Starts a program when a line is there: a trial that is killed before the program is guarded does not start it."""
NOWHERE = "http://127.0.0.1:9"
"""A proxy that does not exist: whatever the program sends elsewhere goes nowhere."""
TOOL_CALL = re.compile(rb'"type": ?"(tool_use|function_call|custom_tool_call|local_shell_call)"|"tool_calls": ?\[\{')

Progress = Callable[[str, bool, float], None]
"""Called once for each step with its description, whether it was done, and the seconds since the start."""


@dataclass
class Attempt:
    """One run of an agent's program. `status`: its exit status, None while it runs and when it was stopped."""

    agent: Agent
    project: Project
    calls: list[RecordedCall]
    status: int | None = None
    output: str = ""

    def requests(self) -> list[RecordedCall]:
        """Return the requests to the model."""
        return [call for call in list(self.calls) if call.method == "POST"]

    def called_a_tool(self) -> bool:
        """Return True when an answer has a call of a tool."""
        return any(TOOL_CALL.search(bytes(call.answer)) for call in self.requests())

    def steps(self) -> list[Step]:
        """Return what can be seen while the agent works, in the order of a good run."""
        return [step for step in STEPS if self.agent.needs_tools or step is not CALLS]


Step = tuple[str, Callable[[Attempt], bool]]
CALLS: Step = ("the model calls a tool", Attempt.called_a_tool)
STEPS: tuple[Step, ...] = (
    ("the program sends a request", lambda attempt: bool(attempt.requests())),
    ("the daemon answers it", lambda attempt: any(call.status == 200 for call in attempt.requests())),
    CALLS,
    ("the test is run", lambda attempt: attempt.project.tested),
    ("calc.py is edited", lambda attempt: attempt.project.edited),
)
PASSES = "the test passes"
ENDS = "the program ends by itself"


@dataclass
class TrialResult:
    """The steps, each with True when it was done, and what was observed. `failed`: the first that was not done."""

    steps: dict[str, bool] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()

    @property
    def failed(self) -> str | None:
        return next((name for name, done in self.steps.items() if not done), None)


def try_agent(
    agent: Agent,
    program: str,
    model: ServedModel,
    daemon: Address,
    folder: Path,
    progress: Progress,
    *,
    patience: float = PATIENCE,
) -> TrialResult:
    """Let an agent do the task in a home and a project of its own, which are removed afterwards. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    started = time.monotonic()
    result = TrialResult()

    def note(name: str, done: bool) -> None:
        result.steps[name] = done
        progress(name, done, time.monotonic() - started)

    with TemporaryDirectory(dir=folder, prefix="trial-") as place, Recorder(daemon) as recorder:
        attempt = Attempt(agent, Project(Path(place) / "project"), recorder.calls)
        setup = agent.setup(replace(model, url=recorder.url), Path(place) / "setup")
        task = agent.task(TASK)
        setup.write()
        command = [program, *setup.arguments, *task.arguments]
        variables = {**offline(Path(place) / "home", attempt.project.folder), **setup.environment, **task.environment}
        run(command, variables, attempt, note, started + patience)
        for name, is_done in attempt.steps():
            if name not in result.steps:
                note(name, is_done(attempt))
        note(PASSES, attempt.project.passes())
        note(ENDS, attempt.status == 0)
        if result.failed:
            result.evidence = tuple(observed(attempt, patience))
    return result


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """End by SystemExit on SIGTERM and SIGHUP, so that an agent ends with its trial. On the main thread only."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def offline(home: Path, project: Path) -> dict[str, str]:
    """Return the variables of a program that sees nothing of the person's own, and reaches only this machine."""
    home.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOWHERE)
    local = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
    return {**kept, **proxies, **local, "HOME": str(home), "PWD": str(project), "TERM": "dumb"}


def run(
    command: list[str],
    variables: dict[str, str],
    attempt: Attempt,
    note: Callable[[str, bool], None],
    deadline: float,
) -> None:
    """Run the program in a process group of its own, which is ended with it; note the steps as they are done."""
    ahead = attempt.steps()
    log = attempt.project.folder.parent / "output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*HELD, *command],
            cwd=attempt.project.folder,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with guarded_group(process.pid):
                _release(process)
                while attempt.status is None and time.monotonic() < deadline:
                    with suppress(subprocess.TimeoutExpired):
                        attempt.status = process.wait(INTERVAL)
                    while ahead and ahead[0][1](attempt):
                        note(ahead.pop(0)[0], True)
        finally:
            with suppress(ProcessLookupError, PermissionError):  # macOS: a group of zombies only
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    attempt.output = log.read_text(encoding="utf-8", errors="replace")


def _release(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as held:
        held.write(b"\n")


def observed(attempt: Attempt, patience: float) -> list[str]:
    """Return what explains a failure: requests that were refused, the model's last words, the program's last lines."""
    requests = attempt.requests()
    refused = [call for call in requests if call.status >= 400]
    found = [f"{call.method} {call.path} was answered {call.status}: {call.message()}" for call in refused[-1:]]
    words = next((text for call in reversed(requests) if (text := call.words())), "")
    if words:
        found.append(f"the model's last words: {_short(words)}")
    lines = [line.strip() for line in attempt.output.splitlines() if line.strip()]
    if lines:
        found.append(f"the program's last words: {_short(' / '.join(lines[-3:]))}")
    if attempt.status is None:
        found.append(f"it was stopped after {patience:g} s, after {len(requests)} requests")
    elif attempt.status:
        found.append(f"its exit status was {attempt.status}")
    return found


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"... {text[-SHOWN:]}"
