"""The program of a probe: loads one foreign plugin, uses what it registered, and tells the doctor each step.

It reads its task from standard input and writes a JSON line for each step to what was its standard output. What the
plugin prints goes elsewhere, so that it cannot break these lines.
"""

from __future__ import annotations

import asyncio
import json
import locale
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from pluggy import PluginManager

from ollmlx.doctor.checks.storage import runnable
from ollmlx.doctor.context import build_context
from ollmlx.doctor.run import OwnedCheck, examine
from ollmlx.plugin.discovery import LoadedPlugin
from ollmlx.plugin.loader import Plugins, load_plugins
from ollmlx.settings import Settings

Tell = Callable[..., None]


def main() -> None:
    """Do the task that standard input describes."""
    task = json.load(sys.stdin)
    steps, printed = os.fdopen(os.dup(1), "w", encoding="utf-8"), _scratch()
    os.dup2(printed, 1)

    def tell(step: str, **details: Any) -> None:
        steps.write(json.dumps({"step": step, **details}) + "\n")
        steps.flush()

    try:
        _probe(task, printed, tell)
    except Exception as error:  # noqa: BLE001 - the doctor reports it
        tell("failed", error=f"{type(error).__name__}: {str(error)[:300]}")
    _end(steps)


def _end(steps: IO[str]) -> None:
    """End at once: threads and exit handlers of the plugin do not matter any more."""
    steps.close()
    os._exit(0)


def _scratch() -> int:
    """Return a descriptor for what the plugin prints."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("printed")
    try:
        return os.dup(tempfile.TemporaryFile().fileno())
    except OSError:
        return os.open(os.devnull, os.O_RDWR)


def _probe(task: dict[str, Any], printed: int, tell: Tell) -> None:
    ours = Plugins(PluginManager("ollmlx"))
    config = Path(task["config"]) if task["config"] else None
    context = build_context(config, task["overrides"], deep=task["deep"], online=task["online"], plugins=lambda: ours)
    settings = context.settings.model_copy(
        update={"plugins": context.settings.plugins.model_copy(update={"load_timeout": task["limit"]})}
    )
    before = _process_state()
    tell("loading")
    loaded = _load(settings, lambda one: _is_subject(one, task))
    plugin = loaded.loaded[0]
    sys.stdout.flush()
    faults = [*_changes(before), *_printed(printed)]
    with suppress(OSError):
        os.chdir(before["the working directory"])
    checks = [one.check for one in loaded.registry.checks.values()]
    described = [{"name": one.name, "group": one.group, "codes": list(one.codes)} for one in checks]
    shown = {key: getattr(plugin, key) for key in ("problem", "code", "hint", "line", "late", "seconds")}
    tell("loaded", plugin=shown, faults=faults, checks=described)
    if plugin.enabled and plugin.hooks:
        ours = _load(settings, lambda one: one.own or _is_subject(one, task))
        context = replace(context, config=None)
        asyncio.run(runnable.run(context))  # its stores list their models, its backends look at every model
        sys.stdout.flush()
        tell("used", faults=[*_changes(before), *_printed(printed)])
        report = examine([OwnedCheck(one, plugin.name) for one in checks], context, patience=task["patience"])
        for result in report.results:
            findings = [finding.model_dump(mode="json") for finding in result.findings]
            tell("checked", name=result.check, findings=findings)
    tell("done")


def _is_subject(plugin: LoadedPlugin, task: dict[str, Any]) -> bool:
    return (plugin.name, plugin.origin) == (task["name"], task["origin"])


def _load(settings: Settings, wanted: Callable[[LoadedPlugin], bool]) -> Plugins:
    return load_plugins(settings, strict=False, wanted=wanted)


def _process_state() -> dict[str, Any]:
    """Return what a plugin has no business to change, by its name for a person."""
    with suppress(OSError):
        return {"the working directory": str(Path.cwd()), "the locale": locale.setlocale(locale.LC_ALL)}
    return {"the working directory": "", "the locale": locale.setlocale(locale.LC_ALL)}


def _changes(before: dict[str, Any]) -> Iterator[str]:
    after = _process_state()
    for name, value in before.items():
        if after[name] != value:
            yield f"changes {name} of the whole process: {str(after[name])[:100]}"
    own = ("MainThread", "plugins", "listings", "choices")  # the last two are of the inventory, and end by themselves
    threads = [one.name for one in threading.enumerate() if one.name not in own and not one.name.startswith("plugin-")]
    extra = [name for name in threads if not name.startswith("asyncio_")]
    if extra:
        yield f"starts threads: {', '.join(extra)[:100]}"


def _printed(descriptor: int) -> Iterator[str]:
    with suppress(OSError):
        size = os.fstat(descriptor).st_size
        if size:
            text = os.pread(descriptor, 100, 0).decode("utf-8", "replace").strip().partition("\n")[0]
            yield f"prints to standard output: {text[:80]}"


if __name__ == "__main__":
    main()
