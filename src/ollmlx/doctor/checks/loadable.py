"""Trial loads: a child process of each engine builds each listed model without reading its weights.

A backend takes part by its method `trial(model)`, which names the module that does it. The module is run with the paths
of models as arguments, and prints a JSON line for each: `folder` (the path), `problem` (null: it can be loaded), `code`
and `command` (what mends it, if that is known).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from ollmlx.doctor.check import check, found
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.inventory import some_of
from ollmlx.errors import OllmlxError
from ollmlx.errors.findings import Finding, SafeCommand, Severity
from ollmlx.model.templates import check_template
from ollmlx.plugin.contracts import Backend
from ollmlx.storekit import read_bounded, write_whole
from ollmlx.types import InstalledModel

DEEP_SECONDS: Final = 300.0
AT_ONCE: Final = 200
MEMORY: Final = "dry-load.json"
"""The file in the state folder that remembers results: a model of the same digest is not examined twice."""
MAX_MEMORY: Final = 4 << 20
ENGINES: Final = ("mlx-lm", "mlx-vlm", "xllamacpp")
PARTS: Final = ("ollmlx", "mlx", "tokenizers", *ENGINES)


class Row(NamedTuple):
    """The result of one trial."""

    problem: str | None
    code: str = "MDL003"
    command: str = ""


@check("loadable", "storage", "MDL003", "MDL004")
async def loadable(context: CheckContext) -> list[Finding]:
    """Report each listed model that cannot be loaded; a note if there was no time for all."""
    choices = await context.choices()
    trials = [(model, module) for model, backend in choices.of if (module := _module(context, model, backend))]
    file = context.settings.state_folder / MEMORY
    versions = [context.version_of(part) for part in PARTS]
    known = await asyncio.to_thread(_remembered, file, versions)
    new: dict[str, list[InstalledModel]] = {}
    for model, module in [(model, module) for model, module in trials if model.digest not in known][:AT_ONCE]:
        new.setdefault(module, []).append(model)
    for rows in await asyncio.gather(*(_examine(context, *group) for group in new.items())):
        known |= rows
    if new:
        every = (*(model for model, _ in trials), *choices.late)
        kept = {model.digest: known.get(model.digest) for model in every}
        await asyncio.to_thread(_remember, file, versions, kept)
    told = [(model, known[model.digest]) for model, _ in trials if model.digest in known]
    late = [model.name.short for model in (*(one for one, _ in trials if one.digest not in known), *choices.late)]
    findings = [_finding(context, model, row) for model, row in told if row.problem is not None]
    return [*findings, *([_late(late)] if late and any(map(context.version_of, ENGINES)) else [])]


def _module(context: CheckContext, model: InstalledModel, backend: Backend | OllmlxError) -> str | None:
    """Return the module that loads a model on trial; None if its backend has none, or refuses the model."""
    trial = None if isinstance(backend, OllmlxError) else getattr(backend, "trial", None)
    with suppress(OllmlxError), context.plugins.registry.backends.errors_named(getattr(backend, "name", "")):
        module = trial(model) if trial is not None else None
        return module if isinstance(module, str) else None
    return None  # another check reports refusals and failures


async def _examine(context: CheckContext, module: str, models: Sequence[InstalledModel]) -> dict[str, Row]:
    """Return the result of each model that could be examined in time, by digest."""
    paths = {str(model.path): model.digest for model in models}
    argv = [sys.executable, "-P", "-m", module, *paths]
    done = await context.child(argv, min(context.left(), DEEP_SECONDS))
    rows: dict[str, Row] = {}
    for line in done.out.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            told = json.loads(line)
            rows[paths[told["folder"]]] = Row(told["problem"], str(told["code"]), str(told.get("command") or ""))
    if done.status is None:
        return rows
    missing = [model.digest for model in models if model.digest not in rows]
    if done.status < 0 and missing:  # with a status of its own, the engine itself cannot be imported: another check's
        reason = (done.err.strip().splitlines() or [f"exit status {done.status}"])[-1][:200]
        rows[missing[0]] = Row(f"loading it on trial ends Python: {reason}")
    for model in models:
        if rows.get(model.digest, Row("")).problem is None and model.chat_template:
            try:
                await asyncio.to_thread(check_template, model.chat_template)
            except OllmlxError as error:
                rows[model.digest] = Row(f"its chat template cannot be used: {error.message}")
    return rows


def _finding(context: CheckContext, model: InstalledModel, row: Row) -> Finding:
    name = model.name.short
    sources = context.plugins.registry.sources.values()
    offers = [offer for each in sources if each.store == model.store and (offer := each.provides(model.name))]
    offered = bool(model.source) and any(_unversioned(offer) == _unversioned(model.source) for offer in offers)
    pull = SafeCommand(f"ollmlx pull {name}", asks=True, changes=model.path)
    again = pull if offered else f"ollmlx show {name}"
    advice = "" if offered or row.command else "download or convert it again: its files do not belong together"
    return found(
        row.code if row.code in loadable.codes else "MDL003", f"{name} cannot be loaded: {row.problem}", subject=name,
        evidence=(str(model.path), advice), commands=(row.command or again,), severity=Severity.ERROR,
    )  # fmt: skip


def _unversioned(source: str) -> str:
    return source.partition("@")[0].partition("==")[0]


def _late(names: Sequence[str]) -> Finding:
    title = f"not loaded on trial for lack of time: {some_of(names)}; see ollmlx doctor storage --deep"
    return found("MDL003", title, severity=Severity.SKIPPED)


def _remembered(file: Path, versions: Sequence[str | None]) -> dict[str, Row]:
    with suppress(OllmlxError, OSError, ValueError, TypeError, KeyError, AttributeError):
        content = json.loads(read_bounded(file, MAX_MEMORY, file.name) or b"{}")
        if content["versions"] == list(versions):
            return {str(digest): Row(row[0], str(row[1]), str(row[2])) for digest, row in content["models"].items()}
    return {}


def _remember(file: Path, versions: Sequence[str | None], known: Mapping[str, object]) -> None:
    """Keep the results of the models that are installed. The doctor creates no folder for it."""
    if file.parent.is_dir():
        models = {digest: row for digest, row in known.items() if row is not None}
        with suppress(OllmlxError, OSError):
            write_whole(file, json.dumps({"versions": list(versions), "models": models}).encode())
