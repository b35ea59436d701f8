"""What an examination found: findings by check, which of them are consequences of others, and the verdict. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ollmlx import __version__
from ollmlx.errors.findings import Finding, Severity

GROUPS = {
    "config": "Settings",
    "machine": "Machine",
    "plugins": "Plugins",
    "storage": "Storage",
    "server": "Server",
    "runners": "Runners",
    "network": "Network",
    "model": "Model",
}
"""The groups in the order they are shown: causes before what follows from them."""

CONSEQUENCES: dict[str, frozenset[str]] = {
    "ENV005": frozenset({"ENV001", "ENV007"}),
    "ENV008": frozenset({"ENV007"}),
    "ENV011": frozenset({"ENV001"}),
    "ENV001": frozenset({"ENV002", "ENV007"}),
    "STO002": frozenset({"CFG009", "STO001"}),
    "STO010": frozenset({"STO001"}),
    "NET001": frozenset({"NET009"}),
    "NET004": frozenset({"NET009"}),
    "SEC004": frozenset({"SEC001"}),
}
"""While the first stands, the others follow from it and are not shown."""

_RANK = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2, Severity.OK: 3, Severity.SKIPPED: 4}
NOTES = (Severity.OK, Severity.SKIPPED)


@dataclass(frozen=True)
class CheckResult:
    """One check: what it found and how long it took (seconds)."""

    check: str
    group: str
    owner: str
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """What it found but notes."""
        return tuple(finding for finding in self.findings if finding.severity not in NOTES)


@dataclass(frozen=True)
class Report:
    """All results of one examination."""

    results: tuple[CheckResult, ...]
    seconds: float

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Causes first: by group, the gravest first within it, without mere consequences."""
        return tuple(finding for group in self.groups() for finding in self.of_group(group))

    @property
    def failed(self) -> bool:
        """Whether the doctor ends with exit status 1."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)

    def groups(self) -> list[str]:
        """The groups that were examined, in the order to show them."""
        seen = dict.fromkeys(result.group for result in self.results)
        order = {group: index for index, group in enumerate(GROUPS)}
        return sorted(seen, key=lambda group: (order.get(group, len(order)), group))

    def of_group(self, group: str) -> list[Finding]:
        """The findings of a group, the gravest first."""
        own = [finding for result in self.results if result.group == group for finding in result.wrong]
        return sorted(_without(own, self._hidden()), key=lambda finding: _RANK[finding.severity])

    def notes(self, group: str) -> list[Finding]:
        """What is there and well in a group, and what could not be looked at."""
        own = [finding for result in self.results if result.group == group for finding in result.findings]
        return [finding for finding in own if finding.severity in NOTES]

    def as_json(self) -> dict[str, Any]:
        """Stable fields, under test."""
        return {
            "version": __version__,
            "ok": not self.failed,
            "seconds": round(self.seconds, 3),
            "findings": [
                {
                    "group": group,
                    **finding.model_dump(mode="json"),
                    "explain": f"ollmlx doctor --explain {finding.code}",
                }
                for group in self.groups()
                for finding in self.of_group(group)
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
                    "findings": len(result.wrong),
                }
                for result in self.results
            ],
        }

    def _hidden(self) -> frozenset[str]:
        codes = {finding.code for result in self.results for finding in result.wrong}
        return frozenset().union(*(CONSEQUENCES.get(code, frozenset()) for code in codes))


def _without(findings: Iterable[Finding], hidden: frozenset[str]) -> list[Finding]:
    return [finding for finding in dict.fromkeys(findings) if finding.code not in hidden]
