"""Are the settings usable?"""

from __future__ import annotations

from collections.abc import Sequence

from ollmlx.declared import Declarations
from ollmlx.doctor.world import World
from ollmlx.errors import ConfigError
from ollmlx.findings import Finding, Severity


class ConfigCheck:
    """Faults of the settings, and aliases that loop."""

    name = "settings"
    group = "config"
    codes = ("CFG001", "CFG002", "CFG003", "CFG004", "CFG006", "CFG007", "CFG010", "CFG011")

    async def run(self, world: World) -> Sequence[Finding]:
        """One finding for all faults of the sources, one for each alias that leads nowhere."""
        if world.faults is not None:
            return [_finding(world.faults)]
        declarations = Declarations(world.settings, {})
        findings = []
        for name in declarations.alias_names():
            try:
                declarations.alias(name)
            except ConfigError as error:
                findings.append(_finding(error))
        return findings


def _finding(error: ConfigError) -> Finding:
    first, *rest = error.message.splitlines()
    return Finding(
        code=error.code or "CFG004",
        severity=Severity.ERROR,
        title=first,
        evidence=tuple(line.strip() for line in rest),
        commands=("ollmlx config check",),
    )
