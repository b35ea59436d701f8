"""Are the plugins that are installed also on, and is everything there that the settings and models ask for?"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from ollmlx.doctor.check import check, found, remedy
from ollmlx.doctor.context import PLUGIN_SECONDS, CheckContext
from ollmlx.doctor.fixes import edit
from ollmlx.errors.findings import Finding, Severity
from ollmlx.plugin.loader import LoadedPlugin
from ollmlx.text.quantities import format_duration

KEPT = (
    ("ollama_store", "manifests", "*/*/*/*", "of Ollama's models"),
    ("hub", "mlx", "*/config.json", "of MLX's models"),
)
"""A store's plugin, its place in the models folder, what lies there once a model, and what they are called."""
DISABLED = "OLLMLX_PLUGINS__DISABLED"
EXTRAS = frozenset({"llamacpp"})
"""Backends that an extra of the distribution `ollmlx` brings."""


@check("plugins", "plugins", "PLG001", "PLG003", "PLG004", "PLG005", "PLG006", "CFG008")
def plugins(world: CheckContext) -> Iterator[Finding]:
    """One finding for each that is off for a reason nobody chose, and for each required one that is off."""
    loaded = world.plugins.loaded if world.plugins else []
    for plugin in loaded:
        if plugin.code is not None and plugin.late and world.settings.plugins.load_timeout > PLUGIN_SECONDS:
            waits = format_duration(world.settings.plugins.load_timeout)
            yield found(
                "PLG001", f"plugin {plugin.name!r} was not loaded within {PLUGIN_SECONDS:g} s", subject=plugin.name,
                evidence=(f"from {plugin.origin}", f"the daemon waits for it {waits} at each start"),
                commands=("ollmlx plugin list",), instead=_without(world, plugin.name), severity=Severity.WARNING,
            )  # fmt: skip
        elif plugin.code is not None:
            yield found(
                plugin.code, f"plugin {plugin.name!r} is off: {plugin.problem}", subject=plugin.name,
                evidence=(f"from {plugin.origin}", "" if remedy(plugin.hint) else plugin.hint or ""),
                commands=(*_mended(world, plugin), "ollmlx plugin list"), instead=_without(world, plugin.name),
                severity=Severity.ERROR,
            )  # fmt: skip
    on = {plugin.name for plugin in loaded if plugin.enabled}
    for name in world.settings.plugins.required if world.plugins else ():
        if name not in on:
            origin = world.origin("plugins", "required")
            here = any(plugin.name == name for plugin in loaded)
            title = f"the required plugin {name!r} is {'off' if here else 'not installed'}"
            mend, _ = edit(world, origin, "", None)
            yield found(
                "PLG006", title, evidence=(str(origin), _why_off(world, name)), subject=name,
                commands=("ollmlx plugin list", *mend),
            )  # fmt: skip


def _mended(world: CheckContext, plugin: LoadedPlugin) -> tuple[str, ...]:
    """What its error advises; else its table, its file, or a newer version of its distribution."""
    if advised := remedy(plugin.hint):
        return advised
    if plugin.code == "CFG008":
        return edit(world, world.origin("plugins", plugin.name), "", None)[0]
    if plugin.origin in {str(path.expanduser()) for path in world.settings.plugins.paths}:
        file = Path(plugin.origin)
        file = file / "__init__.py" if file.is_dir() else file
        if not file.exists():
            return edit(world, world.origin("plugins", "paths"), "", None)[0]
        return (f"${{EDITOR:-vi}} +{plugin.line or 1} {shlex.quote(str(file))}",)
    return (f"pip install --upgrade {plugin.origin.partition(' ')[0]}",)


def _without(world: CheckContext, name: str) -> tuple[str, ...]:
    """Do without the plugin; where several are broken, each command adds to what those before it have set."""
    already = world.settings.plugins.disabled
    broken = [plugin for plugin in world.plugins.loaded if plugin.code is not None] if world.plugins else []
    if len(broken) < 2:
        return (f"export {DISABLED}={shlex.quote(','.join([*already, name]))}",)
    listed = re.sub(r'([\\"$`}])', r"\\\1", ",".join(already))  # as it stands in double quotes
    before = f"${{{DISABLED}:-{listed}}}," if already else f"${{{DISABLED}:+${DISABLED},}}"
    return (f'export {DISABLED}="{before}"{shlex.quote(name)}',)


@check("needed", "plugins", "PLG006")
def needed(world: CheckContext) -> Iterator[Finding]:
    """Backends that declared models ask for, and models on this disk whose store is off."""
    if world.plugins is None:
        return
    registry = world.plugins.registry
    for name, declared in world.settings.models.items():
        if declared.backend is not None and registry.backends.get(declared.backend) is None:
            origin = str(world.origin("models", name))
            yield found(
                "PLG006", f"[models.{name!r}] asks for the backend {declared.backend!r}, which is not there",
                evidence=(origin, _why_off(world, declared.backend)), subject=name,
                commands=("ollmlx plugin list", *_backend_ways(world, name, declared.backend)),
            )  # fmt: skip
    yield from _unread(world)


def _unread(world: CheckContext) -> Iterator[Finding]:
    """Models on this disk whose store is switched off."""
    for plugin, place, once, what in KEPT:
        folder = world.settings.models_folder / place
        count = sum(path.is_file() for path in folder.glob(once)) if plugin in world.settings.plugins.disabled else 0
        if count:
            yield found(
                "PLG006", f"{count} {what} are on this disk, and the plugin that reads them is off",
                evidence=(str(folder), _why_off(world, plugin)), severity=Severity.WARNING, subject=plugin,
                commands=(*edit(world, world.origin("plugins", "disabled"), "", None)[0], "ollmlx plugin list"),
            )  # fmt: skip


def _backend_ways(world: CheckContext, model: str, backend: str) -> tuple[str, ...]:
    """Install what brings the backend, where that is an extra of ours; else correct the model's table."""
    if backend in EXTRAS:
        return (f"pip install 'ollmlx[{backend}]'",)
    return edit(world, world.origin("models", model), "", None)[0]


def _why_off(world: CheckContext, name: str) -> str:
    loaded = world.plugins.loaded if world.plugins else []
    return next((f"plugin {name!r}: {plugin.problem}" for plugin in loaded if plugin.name == name), "")
