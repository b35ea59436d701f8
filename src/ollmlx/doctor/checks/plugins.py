"""Checks of plugins: which are off although they should be on, and which are missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from ollmlx.doctor.check import check, found, remedy
from ollmlx.doctor.context import PLUGIN_SECONDS, CheckContext
from ollmlx.doctor.fixes import edit_settings, quoted
from ollmlx.errors.findings import Finding, SafeCommand, Severity
from ollmlx.plugin.discovery import LoadedPlugin
from ollmlx.text.quantities import format_duration

OFFLINE_STORES = (
    ("ollama_store", "manifests", "*/*/*/*", "models of Ollama"),
    ("hub", "mlx", "*/config.json", "models for MLX"),
)
"""The plugin of a store, its folder in the models folder, a pattern that matches one file a model, and a noun."""
DISABLED = "OLLMLX_PLUGINS__DISABLED"


@check("plugins", "plugins", "PLG001", "PLG003", "PLG004", "PLG005", "PLG006", "PLG008", "CFG008")
def plugins(context: CheckContext) -> Iterator[Finding]:
    """Report each plugin that is off because of an error, and each required plugin that is off."""
    loaded = context.plugins.loaded
    harms = {(probe.task.name, probe.task.origin): probe.harm for probe in context.probes if probe.harm}
    for plugin in loaded:
        if (harm := harms.get((plugin.name, plugin.origin))) is not None:
            yield found(
                plugin.code or "PLG008", f"plugin {plugin.name!r} {harm}", subject=plugin.name,
                evidence=(f"from {plugin.origin}", "the doctor looked at it from another process and did not load it"),
                commands=_without(context, plugin.name), instead=_plugin_fixes(context, plugin),
                severity=Severity.WARNING if plugin.code == "PLG005" else Severity.ERROR,
            )  # fmt: skip
        elif plugin.code is not None and plugin.late and context.settings.plugins.load_timeout > PLUGIN_SECONDS:
            wait = format_duration(context.settings.plugins.load_timeout)
            yield found(
                "PLG001", f"plugin {plugin.name!r} was not loaded within {PLUGIN_SECONDS:g} s", subject=plugin.name,
                evidence=(f"from {plugin.origin}", f"the daemon waits {wait} for it at each start"),
                commands=("ollmlx plugin list",), instead=_without(context, plugin.name), severity=Severity.WARNING,
            )  # fmt: skip
        elif plugin.code is not None:
            yield found(
                plugin.code, f"plugin {plugin.name!r} is off: {plugin.problem}", subject=plugin.name,
                evidence=(f"from {plugin.origin}", "" if remedy(plugin.hint) else plugin.hint or ""),
                commands=(*_plugin_fixes(context, plugin), "ollmlx plugin list"),
                instead=_without(context, plugin.name), severity=Severity.ERROR,
            )  # fmt: skip
    on = {plugin.name for plugin in loaded if plugin.enabled}
    for name in context.settings.plugins.required:
        if name not in on:
            origin = context.origin("plugins", "required")
            installed = any(plugin.name == name for plugin in loaded)
            title = f"the required plugin {name!r} is {'off' if installed else 'not installed'}"
            commands, _ = edit_settings(context, origin)
            yield found(
                "PLG006", title, evidence=(str(origin), _why_off(context, name)), subject=name,
                commands=(*commands, "ollmlx plugin list"),
            )  # fmt: skip


def _plugin_fixes(context: CheckContext, plugin: LoadedPlugin) -> tuple[str, ...]:
    """Return what the error advises; otherwise edit its table, edit its file, or update its distribution."""
    if advised := remedy(plugin.hint):
        return advised
    if plugin.code == "CFG008":
        return edit_settings(context, context.origin("plugins", plugin.name))[0]
    if plugin.origin in {str(path.expanduser()) for path in context.settings.plugins.paths}:
        file = Path(plugin.origin)
        file = file / "__init__.py" if file.is_dir() else file
        if not file.exists():
            return edit_settings(context, context.origin("plugins", "paths"))[0]
        return (SafeCommand(f"${{EDITOR:-vi}} +{plugin.line or 1} {quoted(file)}", asks=True, changes=file),)
    return (f"pip install --upgrade {plugin.origin.partition(' ')[0]}",)


def _without(context: CheckContext, name: str) -> tuple[str, ...]:
    """Switch the plugin off. If several are broken, each command adds to what the earlier ones have set."""
    disabled = context.settings.plugins.disabled
    if sum(plugin.code is not None for plugin in context.plugins.loaded) < 2:
        return (SafeCommand(f"export {DISABLED}={shlex.quote(','.join([*disabled, name]))}"),)
    listed = re.sub(r'([\\"$`}])', r"\\\1", ",".join(disabled))  # escaped for double quotes
    before = f"${{{DISABLED}:-{listed}}}," if disabled else f"${{{DISABLED}:+${DISABLED},}}"
    return (SafeCommand(f'export {DISABLED}="{before}"{shlex.quote(name)}'),)


@check("needed", "plugins", "PLG006")
def needed(context: CheckContext) -> Iterator[Finding]:
    """Report backends that the settings name and that are missing, and models whose store is off."""
    for name, model in context.settings.models.items():
        if model.backend is not None and context.plugins.registry.backends.get(model.backend) is None:
            origin = context.origin("models", name)
            install = ("pip install 'ollmlx[llamacpp]'",) if model.backend == "llamacpp" else ()
            yield found(
                "PLG006", f"[models.{name!r}] names the backend {model.backend!r}, which is not installed",
                evidence=(str(origin), _why_off(context, model.backend)), subject=name,
                commands=(*(install or edit_settings(context, origin)[0]), "ollmlx plugin list"),
            )  # fmt: skip
    for plugin, subfolder, pattern, noun in OFFLINE_STORES:
        if plugin not in context.settings.plugins.disabled:
            continue
        folder = context.settings.models_folder / subfolder
        if count := sum(path.is_file() for path in folder.glob(pattern)):
            yield found(
                "PLG006", f"{noun} are on this disk ({count}), and the plugin that reads them is off",
                evidence=(str(folder), _why_off(context, plugin)), severity=Severity.WARNING, subject=plugin,
                commands=(*edit_settings(context, context.origin("plugins", "disabled"))[0], "ollmlx plugin list"),
            )  # fmt: skip


def _why_off(context: CheckContext, name: str) -> str:
    return next((f"plugin {name!r}: {one.problem}" for one in context.plugins.loaded if one.name == name), "")
