"""Checks of declared models and aliases: settings that are valid, and that no model can follow.

Only headers and configurations are read. A model that is not installed is the finding of another check.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ollmlx.doctor.check import check, found
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import edit_settings, settings_line
from ollmlx.errors import OllmlxError
from ollmlx.errors.findings import Finding, Severity
from ollmlx.formats.gguf import read_gguf_header
from ollmlx.model.names import ModelName
from ollmlx.model.templates import check_template
from ollmlx.settings.files import user_file
from ollmlx.settings.model import ModelSettings
from ollmlx.text.quantities import format_size
from ollmlx.types import InstalledModel

CHECK = "ollmlx config check"
PADDING = 1024
"""Rows of an embedding that may be padding: models of one family differ by as many."""
ADAPTER = ("adapter_config.json", "adapters.safetensors")


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
        if base is not None and stated.pin:
            pinned.append(base)
    findings += _pinned(context, pinned)
    for name in context.settings.aliases:
        for store in context.stores:
            with suppress(OllmlxError):  # a damaged model: the check of its store reports it
                if await store.resolve(ModelName.parse(name)) is not None:
                    title = f"the alias {name} hides the installed model of this name"
                    findings.append(_at(context, "CFG005", title, ("aliases", name), Severity.WARNING))
    return findings


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
    if stated.adapter and (problem := _adapter_problem(Path(stated.adapter).expanduser())):
        title = f"{at} adapter cannot be used: {problem}"
        yield _at(context, "MDL007", title, ("models", name, "adapter"))
    if stated.draft and draft is None:
        title = f"{at} draft = {stated.draft!r} is not installed"
        yield _at(context, "CFG009", title, ("models", name, "draft"), Severity.WARNING)
    elif base is not None and draft is not None and (sizes := _vocabularies(base, draft)):
        title = (
            f"{at} draft has a vocabulary of {sizes[1]} tokens, the model one of {sizes[0]}: it is of another family"
        )
        yield _at(context, "MDL007", title, ("models", name, "draft"))


def _adapter_problem(path: Path) -> str | None:
    """Return why an adapter cannot be used: what is missing of a folder for MLX, or that a file is no GGUF adapter."""
    try:
        if path.is_dir():
            missing = next((file for file in ADAPTER if not (path / file).is_file()), None)
            return f"{path} has no {missing}" if missing else None
        if not path.exists():
            return f"{path} does not exist"
        header = read_gguf_header(path, longest=0)
        return None if header.metadata.get("general.type") == "adapter" else f"{path.name} is no adapter"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except OllmlxError as error:
        return error.message


def _vocabularies(base: InstalledModel, draft: InstalledModel) -> tuple[int, int] | None:
    """Return the sizes of two vocabularies that are too different to be one."""
    one, other = _vocabulary(base), _vocabulary(draft)
    return (one, other) if one and other and abs(one - other) > min(PADDING, one // 8) else None


def _vocabulary(model: InstalledModel) -> int:
    with suppress(OSError, ValueError, OllmlxError):
        if model.format == "gguf":
            tensors = read_gguf_header(model.path, longest=0).tensors
            return next((each.shape[0] for each in tensors if each.name == "token_embd.weight"), 0)
        config: Any = json.loads((model.path / "config.json").read_bytes())
        size = config.get("vocab_size")
        return size if isinstance(size, int) else 0
    return 0


def _pinned(context: CheckContext, models: list[InstalledModel]) -> Iterator[Finding]:
    limit, machine = context.settings.memory.limit, context.machine
    ceiling = min(machine.ram, machine.container_limit or machine.ram)
    budget = limit if isinstance(limit, int) else int(ceiling * context.settings.memory.share)
    size = sum(model.size for model in {model.path: model for model in models}.values())
    if len(models) > 1 and 0 < budget < size:
        title = f"the pinned models have {format_size(size)} together, and all models may use {format_size(budget)}"
        names = ", ".join(model.name.short for model in models)
        yield _at(context, "RUN005", title, ("models", _first_pin(context)), why=f"pinned: {names}")


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
