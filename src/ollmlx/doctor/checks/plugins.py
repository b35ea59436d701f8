"""Are the plugins that are installed also on?"""

from __future__ import annotations

from collections.abc import Sequence

from ollmlx.doctor.world import World
from ollmlx.findings import Finding, Severity


class PluginsCheck:
    """A plugin that is off for a reason nobody chose."""

    name = "plugins"
    group = "plugins"
    codes = ("PLG001", "PLG002", "PLG003", "PLG004", "PLG005", "PLG007", "CFG008")

    async def run(self, world: World) -> Sequence[Finding]:
        """One finding for each broken plugin; one switched off in the settings is none."""
        if world.plugins is None:
            return []
        return [
            Finding(
                code=plugin.code,
                severity=Severity.ERROR,
                title=f"plugin {plugin.name!r} is off: {plugin.problem}",
                evidence=(f"from {plugin.origin}",),
                commands=(plugin.hint,) if plugin.hint else ("ollmlx plugin list",),
                subject=plugin.name,
            )
            for plugin in world.plugins.loaded
            if plugin.code is not None
        ]
