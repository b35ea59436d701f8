"""One self-test from beginning to end, within a deadline, told as it goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ollmlx.doctor.check import found
from ollmlx.doctor.report import CheckResult, Report
from ollmlx.doctor.selftest.subject import Refused, Subject
from ollmlx.doctor.selftest.trials import SAYS, TRIALS, Notes, Trial
from ollmlx.errors import Unsupported
from ollmlx.errors.codes import CODES
from ollmlx.errors.findings import Finding, Severity

PATIENCE = 110.0
"""Seconds for all of it; what is not done by then is not done."""

GROUP = "model"
Progress = Callable[[str, bool, float], None]
"""Told when a trial is over: what it was about, whether the promise held, its seconds."""


async def self_test(
    subject: Subject,
    progress: Progress,
    *,
    patience: float = PATIENCE,
    trials: Iterable[tuple[str, Trial]] = TRIALS,
) -> Report:
    """Try every promise. Raises Refused when the model cannot be had at all, Unsupported when it writes no text."""
    began = time.monotonic()
    shown = await subject.details()
    if "completion" not in shown.get("capabilities", ("completion",)):
        raise Unsupported(
            f"{subject.name.short} does not write text: there is nothing to compare", hint="ollmlx doctor storage"
        )
    running = _Running(subject, progress, began + patience)
    await running.over("loaded", _load)
    undone = [SAYS[name] for name, trial in trials if not await running.over(name, trial)]
    seconds = time.monotonic() - began
    if undone:
        title = f"the self-test of {subject.name.short} was not finished within {patience:g} s"
        late = found(
            "DOC003", title, evidence=(f"not tried: {'; '.join(undone)}",),
            commands=(f"ollmlx bench {subject.name.short}",), subject=subject.name.short,
        )  # fmt: skip
        running.results.append(CheckResult("deadline", GROUP, "ollmlx", (late,), seconds))
    return Report(tuple(running.results), seconds)


async def _load(subject: Subject, notes: Notes) -> Finding | None:
    await subject.load()
    return None


@dataclass
class _Running:
    subject: Subject
    progress: Progress
    deadline: float
    notes: Notes = field(default_factory=Notes)
    results: list[CheckResult] = field(default_factory=list)

    async def over(self, name: str, trial: Trial) -> bool:
        """Run one trial; False when the deadline cut it."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.deadline - began):
                finding = await trial(self.subject, self.notes)
        except TimeoutError:
            return False
        except Refused as refusal:
            finding = _refused(name, self.subject, refusal)
        seconds = time.monotonic() - began
        self.progress(SAYS.get(name, f"{self.subject.name.short} is loaded"), finding is None, seconds)
        findings = (finding,) if finding is not None else ()
        self.results.append(CheckResult(name, GROUP, "ollmlx", findings, seconds))
        return True


def _refused(name: str, subject: Subject, refusal: Refused) -> Finding:
    code = refusal.code if refusal.code in CODES else "DOC003"
    assert code is not None
    return found(
        code, refusal.message, evidence=(f"while trying: {SAYS.get(name, 'to load the model')}",),
        commands=("ollmlx logs",), subject=subject.name.short, severity=Severity.ERROR,
    )  # fmt: skip
