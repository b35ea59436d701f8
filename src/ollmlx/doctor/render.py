"""The doctor's report for people. Pure."""

from __future__ import annotations

import textwrap

from ollmlx.doctor.report import GROUPS, Report
from ollmlx.errors.findings import Finding, Severity

_MARKS = {Severity.ERROR: "[✗]", Severity.WARNING: "[!]", Severity.SKIPPED: "[-]"}
_WELL = "[✓]"
_INDENT = "    "
_DEEPER = _INDENT + " " * 7


def text(report: Report, width: int | None = None) -> str:
    """Groups with their findings, worst first, each with evidence, commands, and where to read more."""
    lines: list[str] = []
    for group in report.groups():
        findings, notes = report.of_group(group), report.notes(group)
        worst = [one.severity for one in (*findings, *notes) if one.severity is not Severity.OK]
        lines.append(f"{_MARKS.get(worst[0], _WELL) if worst else _WELL} {GROUPS.get(group, group.capitalize())}")
        for note in notes:
            lines += _wrapped(note.title, _INDENT, _INDENT, width)
        for finding in findings:
            lines += _lines(finding, width)
    return "\n".join([*lines, _sum(report)])


def _lines(finding: Finding, width: int | None) -> list[str]:
    lines = _wrapped(f"{finding.code} {finding.title}", _INDENT, _DEEPER, width)
    for evidence in finding.evidence:
        lines += _wrapped(evidence, _DEEPER, _DEEPER, width)
    lines += [f"{_DEEPER}$ {command}" for command in finding.commands]  # never broken: it is copied
    if finding.instead:
        lines += [f"{_DEEPER}or:", *(f"{_DEEPER}$ {command}" for command in finding.instead)]
    if finding.severity in (Severity.ERROR, Severity.WARNING):
        lines.append(f"{_DEEPER}more: ollmlx doctor --explain {finding.code}")
    return lines


def _wrapped(text: str, first: str, later: str, width: int | None) -> list[str]:
    if width is None:
        return [first + text]
    return textwrap.wrap(
        text, max(width, 40), initial_indent=first, subsequent_indent=later, break_long_words=False
    ) or [first]


def _sum(report: Report) -> str:
    errors = sum(finding.severity is Severity.ERROR for finding in report.findings)
    warnings = sum(finding.severity is Severity.WARNING for finding in report.findings)
    if errors or warnings:
        return f"{_count(errors, 'error')}, {_count(warnings, 'warning')}."
    notes = [note for group in report.groups() for note in report.notes(group)]
    missed = any(note.severity is Severity.SKIPPED for note in notes)
    return f"Nothing is wrong{' in what was looked at' if missed else ''}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
