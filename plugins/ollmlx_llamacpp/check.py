"""The doctor's look at llama.cpp: is it there, and does it load, when models need it?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from ollmlx import Finding, Severity
from ollmlx_llamacpp.backend import INSTALL, MISSING

BROKEN: Final = "ENV022"
SECONDS: Final = 8
SHOWN: Final = 10


class LlamaCppCheck:
    """Quiet as long as no GGUF model is installed. `installed`: whether xllamacpp is."""

    name = "llama.cpp"
    group = "machine"
    codes: tuple[str, ...] = (MISSING, BROKEN)

    def __init__(self, installed: Callable[[], bool]) -> None:
        self._installed = installed

    async def run(self, world: Any) -> Sequence[Finding]:
        """List the models; load the library in a child when some need it."""
        models = await _gguf_models(world)
        if not models:
            return []
        shown = tuple(models[:SHOWN]) + ((f"and {len(models) - SHOWN} more",) if len(models) > SHOWN else ())
        if not self._installed():
            title = "GGUF models are installed and llama.cpp, which runs them, is not"
            return [_finding(MISSING, Severity.WARNING, title, shown, INSTALL)]
        done = await world.child([sys.executable, "-P", "-c", "import xllamacpp"], SECONDS)
        if done.status == 0:
            return []
        words = done.err.strip().splitlines()[-1:] or [f"exit status {done.status}"]
        title = "llama.cpp is installed and cannot be loaded"
        return [_finding(BROKEN, Severity.ERROR, title, (*words, *shown), "pip install --force-reinstall xllamacpp")]


def _finding(code: str, severity: Severity, title: str, evidence: tuple[str, ...], command: str) -> Finding:
    return Finding(code=code, severity=severity, title=title, evidence=evidence, commands=(command,))


async def _gguf_models(world: Any) -> list[str]:
    if world.plugins is None:
        return []
    found: list[str] = []
    for store in world.plugins.registry.stores.values():
        try:
            found += [model.name.short for model in await store.list() if model.format == "gguf"]
        except Exception:  # noqa: BLE001, S112 - whatever a stranger's store raises is told by other checks
            continue
    return sorted(set(found))
