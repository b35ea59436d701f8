"""Can every installed model be run, and with what?"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ollmlx.doctor.check import check, found, remedy
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import edit
from ollmlx.errors import OllmlxError, PluginError, StorageError
from ollmlx.errors.findings import Finding, Severity

if TYPE_CHECKING:
    from ollmlx.types import InstalledModel

OFTEN = 3
"""Of models that are refused for one and the same reason, so many are named."""

CODES = ("MDL003", "MDL004", "MDL005", "PLG006", "PLG008", "SEC005")
NO_BACKEND = "MDL005"
NO_MLX = "ENV001"


@check("runnable", "storage", *CODES)
async def runnable(world: CheckContext) -> list[Finding]:
    """Every model of every store, offered to the backends; equal refusals are told once.

    A plugin may do this for its store itself, with a check that is called like the store. That MLX is missing, or what
    else keeps a backend from running anything, is told by the check that has the refusal's code.
    """
    if world.plugins is None:
        return []
    examined = world.plugins.registry.checks.names()
    plugins = world.plugins.registry.checks.values()
    elsewhere = {NO_MLX}.union(*(each.check.codes for each in plugins)).difference(CODES)
    refused: dict[tuple[str, str], list[tuple[InstalledModel, OllmlxError]]] = {}
    broken: list[Finding] = []
    stores = world.plugins.registry.stores
    for store in stores.values():
        if store.name in examined:
            continue
        try:
            with stores.blamed(store.name):
                models = await store.list()
        except PluginError as failed:
            broken.append(found("PLG008", failed.message, subject=store.name, commands=("ollmlx plugin list",)))
            continue
        except OllmlxError:  # the folder: another check tells
            continue
        for model in models:
            error = await asyncio.to_thread(_refusal, world, model)
            if error is not None and error.code not in elsewhere:
                code = error.code if error.code in CODES else NO_BACKEND
                refused.setdefault((code, error.hint or ""), []).append((model, error))
    return [*broken, *(_told(world, code, hint, models) for (code, hint), models in refused.items())]


def _refusal(world: CheckContext, model: InstalledModel) -> OllmlxError | None:
    assert world.plugins is not None
    declared = world.settings.models.get(model.name.short)
    try:
        world.plugins.registry.backend_for(model, declared.backend if declared else None)
    except OllmlxError as error:
        return error
    return None


def _told(world: CheckContext, code: str, hint: str, models: list[tuple[InstalledModel, OllmlxError]]) -> Finding:
    first, error = models[0]
    names = ", ".join(model.name.short for model, _ in models[:OFTEN])
    more = f" and {len(models) - OFTEN} more" if len(models) > OFTEN else ""
    title = error.message if len(models) == 1 else f"{len(models)} models cannot be run: {names}{more}"
    commands = remedy(hint) or ((f"ollmlx rm {first.name.short}",) if code == "SEC005" else ("ollmlx plugin list",))
    off = ", ".join(world.settings.plugins.disabled) if code == NO_BACKEND else ""
    if off:
        commands = (*edit(world, world.origin("plugins", "disabled"), "", None)[0], *commands)
    said = ("" if len(models) == 1 else error.message, off and f"switched off: {off}", "" if hint in commands else hint)
    evidence = (str(first.path), *said)
    severity = Severity.ERROR if isinstance(error, StorageError) else Severity.WARNING
    return found(code, title, evidence=evidence, commands=commands, subject=first.name.short, severity=severity)
