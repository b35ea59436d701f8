"""Are the settings usable, and do they mean what they say?"""

from __future__ import annotations

from collections.abc import Iterator

from ollmlx.doctor.check import check, found
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import correct, edit, quote
from ollmlx.errors import OllmlxError
from ollmlx.errors.findings import Finding
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.model.catalogue import load_catalogue
from ollmlx.model.names import ModelName
from ollmlx.plugin.loader import unclaimed_tables
from ollmlx.settings.keys import show_path

CHECK = "ollmlx config check"


@check("settings", "config", "CFG001", "CFG002", "CFG003", "CFG004", "CFG008", "CFG012")
def settings(world: CheckContext) -> Iterator[Finding]:
    """One finding for each fault, with its file and line or its variable."""
    for fault in world.faults:
        where = f"{show_path(fault.path)}: " if fault.path else ""
        commands, instead = correct(world, fault)
        line = quote(world, fault.origin, keyed=bool(fault.path))
        yield found(
            fault.code, f"{where}{fault.problem}", evidence=(str(fault.origin), line),
            commands=(*commands, CHECK), instead=instead, subject=str(fault.origin),
        )  # fmt: skip
    for notice in world.loaded.warnings if world.loaded else ():
        commands, instead = edit(world, notice.origin, notice.path[-1], None)
        yield found(
            notice.code, f"{show_path(notice.path)}: {notice.problem}",
            evidence=(str(notice.origin), quote(world, notice.origin)), commands=(*commands, CHECK), instead=instead,
            subject=str(notice.origin),
        )  # fmt: skip
    for name, likely in unclaimed_tables(world.plugins, world.settings).items() if world.plugins else ():
        origin = world.origin("plugins", name)
        guess = f"; did you mean [plugins.{likely}]?" if likely else ""
        commands, instead = edit(world, origin, name, likely)
        yield found(
            "CFG008", f"[plugins.{name}] is set, and no plugin is called {name!r}{guess}",
            evidence=(str(origin), quote(world, origin)), commands=(*commands, "ollmlx plugin list"), instead=instead,
            subject=name,
        )  # fmt: skip


@check("variables", "config", "CFG005")
def variables(world: CheckContext) -> Iterator[Finding]:
    """Variables that win over the file."""
    for shadowed in world.loaded.shadowed if world.loaded else ():
        yield found(
            "CFG005",
            f"{shadowed.by} wins over {shadowed.origin} for {show_path(shadowed.path)}",
            commands=("ollmlx config show --changed",),
            subject=str(shadowed.by),
        )


@check("declared", "config", "CFG009")
async def models_of_settings(world: CheckContext) -> list[Finding]:
    """Declared models and aliases whose model is not here."""
    if world.faults or world.plugins is None:
        return []
    declarations = ModelOverrides(world.settings, load_catalogue())
    wanted = {name: declared.from_ or name for name, declared in world.settings.models.items()}
    findings = []
    for name, target in {**world.settings.aliases, **wanted}.items():
        goal = ModelName.parse(target)
        goal = declarations.alias(goal) or goal
        if not await _installed(world, goal):
            table = "models" if name in wanted else "aliases"
            origin = world.origin(table, name)
            findings.append(
                found(
                    "CFG009",
                    f"{show_path((table, name))} stands for {goal.short}, which is not installed",
                    evidence=(str(origin), quote(world, origin)),
                    commands=(f"ollmlx pull {goal.short}",),
                    instead=edit(world, origin, "", None)[0],
                    subject=name,
                )
            )
    return findings


async def _installed(world: CheckContext, name: ModelName) -> bool:
    stores = world.plugins.registry.stores.values() if world.plugins else ()
    for store in stores:
        try:
            if await store.resolve(name) is not None:
                return True
        except OllmlxError:  # it is there, and damaged: another check tells
            return True
    return False
