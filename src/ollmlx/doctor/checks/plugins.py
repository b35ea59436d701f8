"""Are the plugins that are installed also on, and is everything there that the settings and models ask for?"""

from __future__ import annotations

from collections.abc import Iterator

from ollmlx.doctor.check import check, found, remedy
from ollmlx.doctor.world import World
from ollmlx.findings import Finding, Severity

OLLAMA = "manifests"
OLLAMA_STORE = "ollama_store"


@check("plugins", "plugins", "PLG001", "PLG002", "PLG003", "PLG004", "PLG005", "PLG007", "CFG008")
def plugins(world: World) -> Iterator[Finding]:
    """One finding for each that is off for a reason nobody chose, and for each required one that is off."""
    loaded = world.plugins.loaded if world.plugins else []
    for plugin in loaded:
        if plugin.code is not None:
            yield found(
                plugin.code, f"plugin {plugin.name!r} is off: {plugin.problem}", subject=plugin.name,
                evidence=(f"from {plugin.origin}", "" if remedy(plugin.hint) else plugin.hint or ""),
                commands=remedy(plugin.hint) or ("ollmlx plugin list",), severity=Severity.ERROR,
            )  # fmt: skip
    on = {plugin.name for plugin in loaded if plugin.enabled}
    for name in world.settings.plugins.required if world.plugins else ():
        if name not in on:
            yield found(
                "PLG007", f"the required plugin {name!r} is off", commands=("ollmlx plugin list",), subject=name
            )


@check("needed", "plugins", "PLG006")
def needed(world: World) -> Iterator[Finding]:
    """Backends that declared models ask for, and models on this disk whose store is off."""
    if world.plugins is None:
        return
    registry = world.plugins.registry
    for name, declared in world.settings.models.items():
        if declared.backend is not None and registry.backends.get(declared.backend) is None:
            origin = str(world.loaded.origin(("models", name))) if world.loaded else ""
            yield found(
                "PLG006", f"[models.{name!r}] asks for the backend {declared.backend!r}, which is not there",
                evidence=(origin, _why_off(world, declared.backend)), subject=name,
                commands=("ollmlx plugin list", f"pip install 'ollmlx[{declared.backend}]'"),
            )  # fmt: skip
    manifests = world.settings.models_folder / OLLAMA
    if OLLAMA_STORE in world.settings.plugins.disabled and manifests.is_dir():
        count = sum(1 for path in manifests.rglob("*") if path.is_file())
        if count:
            yield found(
                "PLG006", f"{count} of Ollama's models are on this disk, and the plugin that reads them is off",
                evidence=(str(manifests), _why_off(world, OLLAMA_STORE)), severity=Severity.WARNING,
                commands=("ollmlx config show",), subject=OLLAMA_STORE,
            )  # fmt: skip


def _why_off(world: World, name: str) -> str:
    loaded = world.plugins.loaded if world.plugins else []
    return next((f"plugin {name!r}: {plugin.problem}" for plugin in loaded if plugin.name == name), "")
