"""Are the plugins that are installed also on?"""

from __future__ import annotations

from collections.abc import Iterator

from ollmlx.doctor.check import check, found
from ollmlx.doctor.world import World
from ollmlx.findings import Finding, Severity


@check("plugins", "plugins", "PLG001", "PLG002", "PLG003", "PLG004", "PLG005", "PLG007", "CFG008")
def plugins(world: World) -> Iterator[Finding]:
    """One finding for each that is off for a reason nobody chose, and for each required one that is off."""
    loaded = world.plugins.loaded if world.plugins else []
    for plugin in loaded:
        if plugin.code is not None:
            yield found(
                plugin.code, f"plugin {plugin.name!r} is off: {plugin.problem}", evidence=(f"from {plugin.origin}",),
                commands=(plugin.hint or "ollmlx plugin list",), subject=plugin.name, severity=Severity.ERROR,
            )  # fmt: skip
    on = {plugin.name for plugin in loaded if plugin.enabled}
    for name in world.settings.plugins.required if world.plugins else ():
        if name not in on:
            yield found(
                "PLG007", f"the required plugin {name!r} is off", commands=("ollmlx plugin list",), subject=name
            )
