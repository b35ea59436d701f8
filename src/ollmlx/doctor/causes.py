"""Which findings follow from which: a cause is named, and what follows from it is folded under it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ollmlx.errors.findings import Finding, Severity

CONSEQUENCES: dict[str, frozenset[str]] = {
    "ENV005": frozenset({"ENV001", "ENV007"}),
    "ENV008": frozenset({"ENV007"}),
    "ENV011": frozenset({"ENV001"}),
    "ENV001": frozenset({"ENV007", "RUN001"}),
    "ENV012": frozenset({"NET005"}),
    "STO002": frozenset({"CFG009", "DOC002", "NET008", "STO001", "STO006"}),
    "STO003": frozenset({"NET008", "STO004", "STO006"}),
    "NET004": frozenset({"STO001"}),
    "RUN005": frozenset({"RUN001", "RUN002"}),
    "SEC004": frozenset({"SEC001"}),
}
"""Code -> codes that follow from it."""

OF_ONE_SUBJECT: dict[str, frozenset[str]] = {
    **dict.fromkeys(("PLG001", "PLG003", "PLG004", "PLG005", "PLG008"), frozenset({"CFG008", "PLG006"})),
    "MDL003": frozenset({"CFG009", "MDL004", "MDL005", "RUN001", "RUN002", "RUN003", "RUN004", "RUN006", "RUN010"}),
    "MDL004": frozenset({"MDL005", "RUN001", "RUN002", "RUN006"}),
    "MDL005": frozenset({"RUN001", "RUN002", "RUN006"}),
    "MDL007": frozenset({"RUN001", "RUN002", "RUN006"}),
}
"""Code -> codes that follow from it where both are about the same model or plugin."""

_RANK = {severity: rank for rank, severity in enumerate(Severity)}


def find_causes(findings: Sequence[Finding]) -> dict[Finding, Finding]:
    """Return each finding that follows from another with its first cause, in the order of the findings.

    What is worse than its cause does not follow from it: the person would not see it.
    """
    direct: dict[Finding, Finding] = {}
    for finding in findings:
        cause = next((one for one in findings if one is not finding and _follows(finding, one)), None)
        if cause is not None:
            direct[finding] = cause
    return {finding: _first(finding, direct) for finding in direct}


def _follows(finding: Finding, cause: Finding) -> bool:
    if _RANK[cause.severity] > _RANK[finding.severity]:
        return False
    same = finding.code in OF_ONE_SUBJECT.get(cause.code, ()) and _subject(finding) == _subject(cause)
    return same or finding.code in CONSEQUENCES.get(cause.code, ())


def _subject(finding: Finding) -> str:
    """Return the subject in one spelling: a model's name and its folder are the same."""
    return finding.subject.removesuffix(":latest").replace("/", "_").lower()


def _first(finding: Finding, direct: dict[Finding, Finding]) -> Finding:
    seen = {finding}
    while (cause := direct[finding]) in direct and cause not in seen:
        seen.add(cause)
        finding = cause
    return cause
