"""The report of an examination: its findings in order, as JSON, and as text for a terminal. Pure."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ollmlx import __version__
from ollmlx.doctor.causes import find_causes
from ollmlx.errors.findings import Finding, Severity
from ollmlx.text.controls import escape_line

GROUPS = ("config", "machine", "plugins", "storage", "server", "runners", "network", "model")
"""The groups in the order in which they are shown: causes before their consequences."""

COPIES = 3
"""Findings of one fault that are shown when many models have it."""
NOTES = (Severity.OK, Severity.SKIPPED)
_RANK = {severity: rank for rank, severity in enumerate(Severity)}
_MARKS = {Severity.ERROR: "[✗]", Severity.WARNING: "[!]", Severity.SKIPPED: "[-]"}
_OK_MARK = "[✓]"
_INDENT = "    "
_DEEPER = _INDENT + " " * 7


@dataclass(frozen=True)
class CheckResult:
    """The findings of one check and the seconds that it took."""

    check: str
    group: str
    owner: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings without the notes."""
        return tuple(finding for finding in self.findings if finding.severity not in NOTES)


@dataclass(frozen=True)
class Report:
    """The results of all checks."""

    results: tuple[CheckResult, ...]
    seconds: float

    @cached_property
    def everything(self) -> dict[Finding, str]:
        """Every finding with its group, in the order in which they are to be mended; nothing is there twice."""
        told: dict[tuple[str, str], tuple[Finding, str]] = {}
        for result in self.results:
            for finding in result.problems:
                told.setdefault((finding.code, finding.title), (finding, result.group))
        groups = self.groups()
        return dict(sorted(told.values(), key=lambda one: (groups.index(one[1]), _RANK[one[0].severity])))

    @cached_property
    def causes(self) -> dict[Finding, Finding]:
        """The findings that follow from another, with that one."""
        return find_causes(tuple(self.everything))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings by group, the most severe first within a group; consequences are left out."""
        return tuple(finding for finding in self.everything if finding not in self.causes)

    @property
    def failed(self) -> bool:
        """True if there is an error; the doctor then ends with exit status 1."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)

    def groups(self) -> list[str]:
        """Return the groups that were examined, in the order in which they are shown."""
        present = dict.fromkeys(result.group for result in self.results)
        order = {group: index for index, group in enumerate(GROUPS)}
        return sorted(present, key=lambda group: (order.get(group, len(order)), group))

    def of_group(self, group: str) -> list[Finding]:
        """Return the findings of a group without consequences, the most severe first."""
        return [finding for finding in self.findings if self.everything[finding] == group]

    def followers(self, cause: Finding) -> list[Finding]:
        """Return the findings that follow from a finding."""
        return [finding for finding, first in self.causes.items() if first == cause]

    def notes(self, group: str) -> list[Finding]:
        """Return the notes of a group: what works, and what could not be checked."""
        own = [finding for result in self.results if result.group == group for finding in result.findings]
        return [finding for finding in own if finding.severity in NOTES]

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON. Tests hold its fields stable."""
        return {
            "version": __version__,
            "ok": not self.failed,
            "seconds": round(self.seconds, 3),
            "findings": [
                {
                    "group": group,
                    **finding.model_dump(mode="json"),
                    "safe": list(finding.safe),
                    "follows_from": cause.code if (cause := self.causes.get(finding)) is not None else None,
                    "explain": f"ollmlx doctor --explain {finding.code}",
                }
                for finding, group in self.everything.items()
            ],
            "notes": [
                {"group": group, "text": note.title, "severity": note.severity.value}
                for group in self.groups()
                for note in self.notes(group)
            ],
            "checks": [
                {
                    "name": result.check,
                    "group": result.group,
                    "owner": result.owner,
                    "seconds": round(result.seconds, 3),
                    "findings": len(result.problems),
                }
                for result in self.results
            ],
        }

    def as_text(self, width: int | None = None) -> str:
        """Return the report for a terminal of `width` columns; None: lines are not wrapped."""
        lines: list[str] = []
        for group in self.groups():
            findings, notes = self.of_group(group), self.notes(group)
            worst = [one.severity for one in (*findings, *notes) if one.severity is not Severity.OK]
            mark = _MARKS.get(worst[0], _OK_MARK) if worst else _OK_MARK
            lines.append(f"{mark} {'Settings' if group == 'config' else group.capitalize()}")
            for note in notes:
                lines += _wrapped(note.title, _INDENT, _INDENT, width)
            copies, told = Counter(map(_fault, findings)), Counter[tuple[str, ...]]()
            for finding in findings:
                fault = _fault(finding)
                told[fault] += 1
                if told[fault] <= COPIES:
                    lines += finding_lines(finding, width, self.followers(finding))
                if told[fault] == COPIES < copies[fault]:
                    rest = f"{finding.code} {copies[fault] - COPIES} more like these: ollmlx doctor {group} --json"
                    lines += _wrapped(rest, _INDENT, _DEEPER, width)
        return "\n".join([*lines, self._summary()])

    def _summary(self) -> str:
        errors = sum(finding.severity is Severity.ERROR for finding in self.findings)
        warnings = sum(finding.severity is Severity.WARNING for finding in self.findings)
        if errors or warnings:
            return f"{_count(errors, 'error')}, {_count(warnings, 'warning')}."
        skipped = any(note.severity is Severity.SKIPPED for group in self.groups() for note in self.notes(group))
        return "No problems found, but some checks were skipped." if skipped else "No problems found."


def _fault(finding: Finding) -> tuple[str, ...]:
    """Return what is wrong, without the names of what it is wrong with: the same for many models with one fault."""
    if not finding.subject:
        return (finding.code, finding.title)
    names = re.compile(rf"{re.escape(finding.subject)}|[\d/_]")
    return (finding.code, *(word for word in finding.title.split() if not names.search(word)))


def finding_lines(finding: Finding, width: int | None, followers: Sequence[Finding] = ()) -> list[str]:
    """Return a finding as the lines of a report. `followers`: the findings that follow from it."""
    lines = _wrapped(f"{finding.code} {finding.title}", _INDENT, _DEEPER, width)
    for evidence in finding.evidence:
        lines += _wrapped(evidence, _DEEPER, _DEEPER, width)
    lines += [f"{_DEEPER}$ {command}" for command in finding.commands]  # not wrapped: commands are copied
    if finding.instead:
        lines += [f"{_DEEPER}or:", *(f"{_DEEPER}$ {command}" for command in finding.instead)]
    if followers:
        verb, codes = (
            "follows" if len(followers) == 1 else "follow",
            ", ".join(dict.fromkeys(one.code for one in followers)),
        )
        lines += _wrapped(
            f"{_count(len(followers), 'more finding')} {verb} from this: {codes}", _DEEPER, _DEEPER, width
        )
    if finding.severity in (Severity.ERROR, Severity.WARNING):
        lines.append(f"{_DEEPER}more: ollmlx doctor --explain {finding.code}")
    return lines


def _wrapped(text: str, first: str, later: str, width: int | None) -> list[str]:
    text = escape_line(text)  # it may quote a model, or a request
    if width is None:
        return [first + text]
    return textwrap.wrap(
        text, max(width, 40), initial_indent=first, subsequent_indent=later, break_long_words=False
    ) or [first]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
