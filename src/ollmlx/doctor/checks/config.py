"""Checks of the settings: whether they can be used, and whether they have the effect that they seem to have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

from packaging.version import Version

from ollmlx import __version__
from ollmlx.doctor.check import check, found
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import edit_settings, settings_fixes, settings_line
from ollmlx.errors import OllmlxError
from ollmlx.errors.findings import Finding, SafeCommand
from ollmlx.model.names import ModelName
from ollmlx.plugin.loader import unclaimed_tables
from ollmlx.settings.faults import Fault
from ollmlx.settings.keys import show_path
from ollmlx.text.quantities import format_size

CHECK = "ollmlx config check"
SMALLEST_LIMIT = 1 << 20
WRITTEN_BY = re.compile(r"# Written by ollmlx (\S{1,40})\n")
MOST_HEAD = 100


@check("settings", "config", "CFG001", "CFG003", "CFG004", "CFG008", "CFG013")
def settings(context: CheckContext) -> Iterator[Finding]:
    """Report each fault and each warning with its file and line or its variable."""
    for fault in (*context.faults, *context.loaded.warnings):
        key = f"{show_path(fault.path)}: " if fault.path else ""
        commands, instead = settings_fixes(context, fault)
        line = settings_line(context, fault.origin, keyed=bool(fault.path))
        newer = _of_newer_version(context, fault)
        if newer:
            commands, instead = ("pip install --upgrade ollmlx",), (*commands, CHECK)
        yield found(
            fault.code, f"{key}{fault.problem}{newer}", evidence=(str(fault.origin), line),
            commands=commands if newer else (*commands, CHECK), instead=instead, subject=str(fault.origin),
        )  # fmt: skip
    for name, likely in unclaimed_tables(context.plugins, context.settings).items():
        origin = context.origin("plugins", name)
        guess = f"; did you mean [plugins.{likely}]?" if likely else ""
        commands, instead = edit_settings(context, origin, name, likely)
        yield found(
            "CFG008", f"[plugins.{name}] is set, and no plugin is called {name!r}{guess}", subject=name,
            evidence=(str(origin), settings_line(context, origin)), commands=(*commands, "ollmlx plugin list"),
            instead=instead,
        )  # fmt: skip


def _of_newer_version(context: CheckContext, fault: Fault) -> str:
    """Return that a key belongs to a newer version, if its file says by which it was written."""
    if fault.code != "CFG003" or fault.origin.kind != "file" or context.file is None:
        return ""
    with suppress(OSError, ValueError), context.file.open(encoding="utf-8", errors="replace") as file:
        written = WRITTEN_BY.match(file.read(MOST_HEAD))
        if written and Version(written[1]) > Version(__version__):
            return f": the file was written by ollmlx {written[1]}, and this is {__version__}"
    return ""


@check("variables", "config", "CFG005")
def variables(context: CheckContext) -> Iterator[Finding]:
    """Report variables that override the settings file."""
    for shadowed in context.loaded.shadowed:
        title = f"{shadowed.by} overrides {shadowed.origin} for {show_path(shadowed.path)}"
        yield found("CFG005", title, commands=("ollmlx config show --changed",), subject=str(shadowed.by))


@check("declared", "config", "CFG009")
async def unknown_models(context: CheckContext) -> list[Finding]:
    """Report entries of [models] and [aliases] whose model is not installed."""
    findings: list[Finding] = []
    if context.faults:
        return findings
    models = {name: model.from_ or name for name, model in context.settings.models.items()}
    for name, target in {**context.settings.aliases, **models}.items():
        wanted = context.target(target)
        if not await _is_installed(context, wanted):
            path = ("models" if name in models else "aliases", name)
            origin = context.origin(*path)
            title = f"{show_path(path)} refers to {wanted.short}, which is not installed"
            pull, edit = (SafeCommand(f"ollmlx pull {wanted.short}", asks=True),), edit_settings(context, origin)[0]
            offered = _is_offered(context, wanted)
            findings.append(
                found(
                    "CFG009", title, subject=name,
                    evidence=(str(origin), settings_line(context, origin), "" if offered else "no source offers it"),
                    commands=pull if offered else edit or ("ollmlx list",), instead=edit if offered else (),
                )
            )  # fmt: skip
    return findings


@check("memory", "config", "RUN005")
async def memory_limit(context: CheckContext) -> list[Finding]:
    """Report memory for models that is smaller than the files of every installed model."""
    budget, sizes = context.memory_budget, [model.size for model in await context.models()]
    if not budget or not sizes or min(sizes) <= budget:
        return []
    smallest, origin = format_size(min(sizes)), context.origin("memory", "limit")
    if not isinstance(context.settings.memory.limit, int):
        room = f"the {format_size(budget)} that models may use on this machine"
        title = f"no installed model fits into {room}: the smallest has {smallest}"
        smaller = SafeCommand("ollmlx pull smollm2:135m", asks=True)
        return [found("RUN005", title, commands=(smaller,), instead=("ollmlx config show",))]
    unit = "; a size without a unit counts bytes: write 8GiB" if budget < SMALLEST_LIMIT else ""
    title = f"no installed model fits into [memory] limit = {format_size(budget)}: the smallest has {smallest}"
    commands = (*edit_settings(context, origin, "limit")[0], CHECK)
    return [found("RUN005", title, evidence=(f"{origin}{unit}", settings_line(context, origin)), commands=commands)]


def _is_offered(context: CheckContext, name: ModelName) -> bool:
    """Return True if a source says that it provides a model of this name; no network is used."""
    sources = context.plugins.registry.sources.values()
    return any(source.provides(name) is not None for source in sources)


async def _is_installed(context: CheckContext, name: ModelName) -> bool:
    try:
        return any([await store.resolve(name) is not None for store in context.stores])
    except OllmlxError:  # installed and damaged: another check reports it
        return True
