"""One self-test from start to end, within a time limit, with progress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ollmlx.doctor.check import found
from ollmlx.doctor.report import CheckResult, Report
from ollmlx.doctor.selftest.subject import RequestFailed, Subject
from ollmlx.doctor.selftest.trials import TRIALS, Trial, TrialState
from ollmlx.errors import Unsupported
from ollmlx.errors.findings import CODES, Finding, Severity

PATIENCE = 110.0
"""Seconds for the whole self-test; trials that have not ended by then are reported as not done."""

GROUP = "model"
Progress = Callable[[str, bool, float], None]
"""Called after each trial with its guarantee, whether it holds, and the seconds of the trial."""


async def self_test(
    subject: Subject, progress: Progress, *, patience: float = PATIENCE, trials: Iterable[Trial] = TRIALS
) -> Report:
    """Run every trial. Raises RequestFailed if the model cannot be used at all, Unsupported if it generates no text."""
    started = time.monotonic()
    shown = await subject.details()
    name = subject.name.short
    if "completion" not in shown.get("capabilities", ("completion",)):
        raise Unsupported(f"{name} generates no text, so there is nothing to compare", hint="ollmlx doctor storage")
    session = _Session(subject, progress, started + patience)
    await session.run(Trial("loaded", f"{name} can be loaded", _load))
    undone = [trial.guarantee for trial in trials if not await session.run(trial)]
    seconds = time.monotonic() - started
    if undone:
        late = found(
            "DOC003", f"the self-test of {name} was not finished within {patience:g} s",
            evidence=(f"not tested: {'; '.join(undone)}",), commands=(f"ollmlx bench {name}",), subject=name,
        )  # fmt: skip
        session.results.append(CheckResult("deadline", GROUP, "ollmlx", (late,), seconds))
    return Report(tuple(session.results), seconds)


async def _load(subject: Subject, state: TrialState) -> Finding | None:
    await subject.load()
    return None


@dataclass
class _Session:
    subject: Subject
    progress: Progress
    deadline: float
    state: TrialState = field(default_factory=TrialState)
    results: list[CheckResult] = field(default_factory=list)

    async def run(self, trial: Trial) -> bool:
        """Run one trial; False if the time limit ended it."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.deadline - started):
                finding = await trial.run(self.subject, self.state)
        except TimeoutError:
            return False
        except RequestFailed as error:
            finding = _request_failed(trial, self.subject, error)
        seconds = time.monotonic() - started
        self.progress(trial.guarantee, finding is None, seconds)
        findings = (finding,) if finding is not None else ()
        self.results.append(CheckResult(trial.name, GROUP, "ollmlx", findings, seconds))
        return True


def _request_failed(trial: Trial, subject: Subject, error: RequestFailed) -> Finding:
    code = error.code if error.code in CODES else "DOC003"
    assert code is not None
    return found(
        code, error.message, evidence=(f"while testing: {trial.guarantee}",),
        commands=("ollmlx logs",), subject=subject.name.short, severity=Severity.ERROR,
    )  # fmt: skip
