"""The doctor's dry load: a child process builds each listed MLX model without reading its weights."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ollmlx import Finding, OllmlxError, SafeCommand, Severity, check_template
from ollmlx.storekit import read_bounded, write_whole
from ollmlx.types import InstalledModel

SECONDS: Final = 3.2
DEEP_SECONDS: Final = 300.0
AT_ONCE: Final = 200
MEMORY: Final = "dry-load.json"
"""The file in the state folder that remembers results: a model of the same digest is not examined twice."""
MAX_MEMORY: Final = 4 << 20
PARTS: Final = ("mlx", "mlx-lm")


class LoadableCheck:
    """Finds models that are listed and cannot be loaded: shapes, tokenizer, zeros, and templates that do not parse."""

    name = "loadable"
    group = "storage"
    codes: tuple[str, ...] = ("MDL003", "MDL004")

    async def run(self, context: Any) -> Sequence[Finding]:
        """Return a finding for each model that cannot be loaded; a note if there was no time for all."""
        models = [model for store in context.stores for model in await _listed(store) if _generates(model)]
        file = context.settings.state_folder / MEMORY
        versions = [context.version_of(part) for part in PARTS]
        known = await asyncio.to_thread(_remembered, file, versions)
        new = [model for model in models if model.digest not in known][:AT_ONCE]
        if new:
            known |= await self._examine(context, new)
            await asyncio.to_thread(
                _remember, file, versions, {model.digest: known.get(model.digest) for model in models}
            )
        told = [(model, *known.get(model.digest, (None, ""))) for model in models]
        findings = [_finding(context, model, problem, code) for model, problem, code in told if problem is not None]
        late = [model.name.short for model in models if model.digest not in known]
        return [*findings, *([_late(late)] if late and context.version_of("mlx-lm") else [])]

    async def _examine(self, context: Any, models: Sequence[InstalledModel]) -> dict[str, tuple[str | None, str]]:
        """Return problem and code of each model that could be examined in time, by digest."""
        folders = {str(model.path): model.digest for model in models}
        argv = [sys.executable, "-P", "-m", "ollmlx_mlx.engine.dry_load", *folders]
        done = await context.child(argv, DEEP_SECONDS if context.deep else SECONDS)
        found: dict[str, tuple[str | None, str]] = {}
        for line in done.out.splitlines():
            with suppress(ValueError, KeyError, TypeError):
                result = json.loads(line)
                found[folders[result["folder"]]] = (result["problem"], str(result["code"]))
        if done.status is None:
            return found
        missing = [model.digest for model in models if model.digest not in found]
        if done.status and missing:
            reason = (done.err.strip().splitlines() or [f"exit status {done.status}"])[-1][:200]
            found[missing[0]] = (f"loading it on trial ends Python: {reason}", "MDL003")
        for model in models:
            if found.get(model.digest, ("",))[0] is None and model.chat_template:
                try:
                    await asyncio.to_thread(check_template, model.chat_template)
                except OllmlxError as error:
                    found[model.digest] = (f"its chat template cannot be used: {error.message}", "MDL003")
        return found


def _generates(model: InstalledModel) -> bool:
    """Return True for a model that mlx-lm runs; encoders are built by the engine itself."""
    return model.format == "mlx" and "completion" in model.capabilities


async def _listed(store: Any) -> Sequence[InstalledModel]:
    try:
        return await store.list()  # type: ignore[no-any-return]
    except Exception:  # noqa: BLE001 - other checks report the failures of stores
        return ()


def _finding(context: Any, model: InstalledModel, problem: str, code: str) -> Finding:
    name = model.name.short
    sources = context.plugins.registry.sources.values()
    offers = [offer for each in sources if each.store == model.store and (offer := each.provides(model.name))]
    offered = bool(model.source) and any(_unversioned(offer) == _unversioned(model.source) for offer in offers)
    pull = SafeCommand(f"ollmlx pull {name}", asks=True, changes=model.path)
    commands: tuple[str, ...] = (pull,) if offered else (f"ollmlx show {name}",)
    if code == "MDL004":
        commands = ("pip install --upgrade mlx-lm",)
    advice = "" if offered else "download or convert it again: its files do not belong together"
    return Finding.of(
        code, f"{name} cannot be loaded: {problem}", evidence=(str(model.path), advice), commands=commands,
        subject=name, severity=Severity.ERROR,
    )  # fmt: skip


def _unversioned(source: str) -> str:
    return source.partition("@")[0].partition("==")[0]


def _late(names: Sequence[str]) -> Finding:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    title = f"not loaded on trial for lack of time: {', '.join(names[:3])}{more}; see ollmlx doctor storage --deep"
    return Finding.of("MDL003", title, severity=Severity.SKIPPED)


def _remembered(file: Path, versions: Sequence[str | None]) -> dict[str, tuple[str | None, str]]:
    with suppress(OllmlxError, OSError, ValueError, TypeError, KeyError, AttributeError):
        content = json.loads(read_bounded(file, MAX_MEMORY, file.name) or b"{}")
        if content["versions"] == list(versions):
            return {str(digest): (row[0], str(row[1])) for digest, row in content["models"].items()}
    return {}


def _remember(file: Path, versions: Sequence[str | None], known: Mapping[str, object]) -> None:
    """Keep the results of the models that are installed. The doctor creates no folder for it."""
    if file.parent.is_dir():
        models = {digest: row for digest, row in known.items() if row is not None}
        with suppress(OllmlxError, OSError):
            write_whole(file, json.dumps({"versions": list(versions), "models": models}).encode())
