"""The doctor's report, for people and for scripts. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ollmlx.doctor.examine import Examined
from ollmlx.findings import Finding, Severity

_MARKS = {Severity.OK: "[✓]", Severity.INFO: "[✓]", Severity.WARNING: "[!]", Severity.ERROR: "[✗]"}
_RANK = [Severity.OK, Severity.INFO, Severity.WARNING, Severity.ERROR]
_INDENT = "    "


def text(examined: Sequence[Examined]) -> str:
    """Groups with their findings, worst first, each with evidence, the command, and where to read more."""
    groups: dict[str, list[Finding]] = {}
    for one in examined:
        groups.setdefault(one.group, []).extend(one.findings)
    lines: list[str] = []
    for group, findings in groups.items():
        worst = max((finding.severity for finding in findings), key=_RANK.index, default=Severity.OK)
        lines.append(f"{_MARKS[worst]} {group.capitalize()}")
        for finding in sorted(findings, key=lambda found: -_RANK.index(found.severity)):
            lines.extend(_lines(finding))
    return "\n".join([*lines, _sum([finding for found in groups.values() for finding in found])])


def as_json(examined: Sequence[Examined]) -> str:
    """The report with stable fields: `findings` and `checks`."""
    findings = [
        {"check": one.name, "group": one.group, **finding.model_dump(mode="json")}
        for one in examined
        for finding in one.findings
    ]
    return json.dumps({"findings": findings, "checks": [one.name for one in examined]}, indent=2)


def _lines(finding: Finding) -> list[str]:
    lines = [f"{_INDENT}{finding.code} {finding.title}"]
    lines += [f"{_INDENT}       {evidence}" for evidence in finding.evidence]
    lines += [f"{_INDENT}       $ {command}" for command in finding.commands]
    if finding.severity in (Severity.ERROR, Severity.WARNING):
        lines.append(f"{_INDENT}       more: ollmlx doctor --explain {finding.code}")
    return lines


def _sum(findings: Sequence[Finding]) -> str:
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    warnings = sum(finding.severity is Severity.WARNING for finding in findings)
    if not errors and not warnings:
        return "Nothing is wrong."
    return f"{_count(errors, 'error')}, {_count(warnings, 'warning')}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
