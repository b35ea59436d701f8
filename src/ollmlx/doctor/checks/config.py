"""Checks of the settings: whether they can be used, and whether they have the effect that they seem to have."""

from __future__ import annotations

from collections.abc import Iterator

from ollmlx.doctor.check import check, found
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import edit_settings, settings_fixes, settings_line
from ollmlx.errors import OllmlxError
from ollmlx.errors.findings import Finding
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.model.catalogue import load_catalogue
from ollmlx.model.names import ModelName
from ollmlx.plugin.loader import unclaimed_tables
from ollmlx.settings.keys import show_path

CHECK = "ollmlx config check"


@check("settings", "config", "CFG001", "CFG002", "CFG003", "CFG004", "CFG008", "CFG012")
def settings(context: CheckContext) -> Iterator[Finding]:
    """Report each fault with its file and line or its variable."""
    for fault in context.faults:
        key = f"{show_path(fault.path)}: " if fault.path else ""
        commands, instead = settings_fixes(context, fault)
        line = settings_line(context, fault.origin, keyed=bool(fault.path))
        yield found(
            fault.code, f"{key}{fault.problem}", evidence=(str(fault.origin), line),
            commands=(*commands, CHECK), instead=instead, subject=str(fault.origin),
        )  # fmt: skip
    for notice in context.loaded.warnings if context.loaded else ():
        commands, instead = edit_settings(context, notice.origin)
        yield found(
            notice.code, f"{show_path(notice.path)}: {notice.problem}",
            evidence=(str(notice.origin), settings_line(context, notice.origin)), commands=(*commands, CHECK),
            instead=instead, subject=str(notice.origin),
        )  # fmt: skip
    for name, likely in unclaimed_tables(context.plugins, context.settings).items() if context.plugins else ():
        origin = context.origin("plugins", name)
        guess = f"; did you mean [plugins.{likely}]?" if likely else ""
        commands, instead = edit_settings(context, origin, name, likely)
        yield found(
            "CFG008", f"[plugins.{name}] is set, and no plugin is called {name!r}{guess}", subject=name,
            evidence=(str(origin), settings_line(context, origin)), commands=(*commands, "ollmlx plugin list"),
            instead=instead,
        )  # fmt: skip


@check("variables", "config", "CFG005")
def variables(context: CheckContext) -> Iterator[Finding]:
    """Report variables that override the settings file."""
    for shadowed in context.loaded.shadowed if context.loaded else ():
        yield found(
            "CFG005",
            f"{shadowed.by} overrides {shadowed.origin} for {show_path(shadowed.path)}",
            commands=("ollmlx config show --changed",),
            subject=str(shadowed.by),
        )


@check("declared", "config", "CFG009")
async def unknown_models(context: CheckContext) -> list[Finding]:
    """Report entries of [models] and [aliases] whose model is not installed."""
    if context.faults or context.plugins is None:
        return []
    overrides = ModelOverrides(context.settings, load_catalogue())
    declared = {name: model.from_ or name for name, model in context.settings.models.items()}
    findings = []
    for name, target in {**context.settings.aliases, **declared}.items():
        wanted = ModelName.parse(target)
        wanted = overrides.alias(wanted) or wanted
        if not await _installed(context, wanted):
            table = "models" if name in declared else "aliases"
            origin = context.origin(table, name)
            findings.append(
                found(
                    "CFG009",
                    f"{show_path((table, name))} refers to {wanted.short}, which is not installed",
                    evidence=(str(origin), settings_line(context, origin)),
                    commands=(f"ollmlx pull {wanted.short}",),
                    instead=edit_settings(context, origin)[0],
                    subject=name,
                )
            )
    return findings


async def _installed(context: CheckContext, name: ModelName) -> bool:
    for store in context.plugins.registry.stores.values() if context.plugins else ():
        try:
            if await store.resolve(name) is not None:
                return True
        except OllmlxError:  # installed and damaged: another check reports it
            return True
    return False
