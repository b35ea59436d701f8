"""Checks of declared models and aliases: settings that are valid, and that no model can follow.

Only headers and configurations are read. A model that is not installed is the finding of another check.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ollmlx.doctor.check import check, found
from ollmlx.doctor.checks.fitting import adapter_problem, other_vocabularies
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import edit_settings, settings_line
from ollmlx.errors import OllmlxError
from ollmlx.errors.findings import Finding, Severity
from ollmlx.model.names import ModelName
from ollmlx.model.templates import check_template
from ollmlx.settings.files import user_file
from ollmlx.settings.model import ModelSettings
from ollmlx.text.quantities import format_size
from ollmlx.types import InstalledModel

CHECK = "ollmlx config check"
SHORT = 512
"""Tokens of a context that is short for any model."""


@check("declarations", "config", "CFG004", "CFG005", "CFG009", "MDL007", "RUN005")
async def declarations(context: CheckContext) -> list[Finding]:
    """Examine each declared model, the pinned ones together, aliases, and a second settings file."""
    findings = [*_second_file(context)]
    if context.faults:
        return findings
    pinned: list[InstalledModel] = []
    for name, stated in context.settings.models.items():
        base = await context.installed(stated.from_ or name)
        draft = await context.installed(stated.draft) if stated.draft else None
        findings += _declaration(context, name, stated, base, draft)
        if base is not None and stated.context_length:
            findings += await _too_long(context, name, stated.context_length, base)
        if base is not None and stated.pin:
            pinned.append(base)
    findings += _pinned(context, pinned, await context.models())
    hiding = dict.fromkeys(context.settings.aliases, "aliases")
    hiding |= {name: "models" for name, stated in context.settings.models.items() if stated.from_}
    for name, table in hiding.items():
        for store in context.stores:
            with suppress(OllmlxError):  # a damaged model: the check of its store reports it
                if await store.resolve(ModelName.parse(name)) is not None:
                    what = "alias" if table == "aliases" else "declared model"
                    title = f"the {what} {name} hides the installed model of this name"
                    findings.append(_at(context, "CFG005", title, (table, name), Severity.WARNING))
    return findings


async def _too_long(context: CheckContext, name: str, length: int, base: InstalledModel) -> list[Finding]:
    """Report a context that needs more memory than all models may use, where a short one would fit."""
    backend = next((one for model, one in (await context.choices()).of if model.path == base.path), None)
    budget = context.memory_budget
    if backend is None or isinstance(backend, OllmlxError) or not budget:
        return []
    with suppress(OllmlxError), context.plugins.registry.backends.errors_named(backend.name):
        need, least = (backend.estimate(base, tokens, 1).total for tokens in (length, SHORT))
        if need > budget >= least:
            room = f"needs {format_size(need)}, and all models may use {format_size(budget)}"
            title = f'[models."{name}"] context_length = {length} {room}'
            return [_at(context, "RUN005", title, ("models", name, "context_length"))]
    return []


def _at(
    context: CheckContext, code: str, title: str, path: tuple[str, ...], severity: Severity | None = None, why: str = ""
) -> Finding:
    """Return a finding about a key, with the command that opens the file at its line."""
    origin = context.origin(*path)
    commands = (*edit_settings(context, origin)[0], CHECK)
    evidence = (str(origin), settings_line(context, origin), why)
    return found(code, title, evidence=evidence, commands=commands, subject=path[1], severity=severity)


def _declaration(
    context: CheckContext, name: str, stated: ModelSettings, base: InstalledModel | None, draft: InstalledModel | None
) -> Iterator[Finding]:
    at = f'[models."{name}"]'
    if stated.template:
        try:
            check_template(stated.template)
        except OllmlxError as error:
            title = f"{at} template cannot be used: {error.message}"
            yield _at(context, "CFG004", title, ("models", name, "template"))
    longest = base.details.context_length if base is not None else None
    if longest and stated.context_length and longest < stated.context_length:
        title = f"{at} context_length = {stated.context_length}: the model was made for {longest} tokens"
        yield _at(context, "CFG004", title, ("models", name, "context_length"), Severity.WARNING)
    if stated.adapter and (problem := adapter_problem(Path(stated.adapter).expanduser(), base)):
        title = f"{at} adapter cannot be used: {problem}"
        yield _at(context, "MDL007", title, ("models", name, "adapter"))
    if stated.draft and draft is None:
        title = f"{at} draft = {stated.draft!r} is not installed"
        yield _at(context, "CFG009", title, ("models", name, "draft"), Severity.WARNING)
    elif base is not None and draft is not None and (sizes := other_vocabularies(base, draft.path)):
        title = (
            f"{at} draft has a vocabulary of {sizes[1]} tokens, the model one of {sizes[0]}: it is of another family"
        )
        yield _at(context, "MDL007", title, ("models", name, "draft"))


def _pinned(context: CheckContext, models: list[InstalledModel], installed: list[InstalledModel]) -> Iterator[Finding]:
    """Report pinned models that do not fit together, or beside which no other installed model fits."""
    budget, pinned = context.memory_budget, {model.path: model for model in models}
    size = sum(model.size for model in pinned.values())
    others = [model.size for model in installed if model.path not in pinned]
    why = f"pinned: {', '.join(model.name.short for model in models)}"
    if not models or not budget:
        return
    if size > budget and len(pinned) > 1:
        title = f"the pinned models have {format_size(size)} together, and all models may use {format_size(budget)}"
        yield _at(context, "RUN005", title, ("models", _first_pin(context)), why=why)
    elif size <= budget and others and min(others) > budget - size:
        title = f"no other installed model fits beside the pinned ones: they leave {format_size(budget - size)}"
        yield _at(context, "RUN005", title, ("models", _first_pin(context)), Severity.WARNING, why)


def _first_pin(context: CheckContext) -> str:
    return next(name for name, model in context.settings.models.items() if model.pin)


def _second_file(context: CheckContext) -> Iterator[Finding]:
    """Tell that of two settings files only one is read."""
    own = user_file(context.environ)
    if context.config is None and own is not None and context.file is not None and own.path != context.file:
        yield found(
            "CFG005", f"{own.path} is not read here: {context.file} is in the working directory", subject=str(own.path),
            commands=("ollmlx config show --changed",), severity=Severity.INFO,
        )  # fmt: skip
