"""The doctor's check of llama.cpp: it is installed, and it loads, when models need it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ollmlx import Finding, Severity
from ollmlx_llamacpp.backend import INSTALL, MISSING

BROKEN: Final = "ENV022"
IMPORT_SECONDS: Final = 8
MODELS_SHOWN: Final = 10


@dataclass(frozen=True)
class LlamaCppCheck:
    """Finds nothing as long as no GGUF model is installed. `installed` tells whether xllamacpp is installed."""

    installed: Callable[[], bool]

    name = "llama.cpp"
    group = "machine"
    codes = (MISSING, BROKEN)

    async def run(self, context: Any) -> Sequence[Finding]:
        """List the GGUF models; when there are any, load the library in a child process."""
        models = await _gguf_models(context)
        if not models:
            return []
        more = len(models) - MODELS_SHOWN
        shown = (*models[:MODELS_SHOWN], *([f"and {more} more"] if more > 0 else []))
        if not self.installed():
            title = "GGUF models are installed and llama.cpp, which runs them, is not"
            return [Finding.of(MISSING, title, evidence=shown, commands=[INSTALL], severity=Severity.WARNING)]
        done = await context.child([sys.executable, "-P", "-c", "import xllamacpp"], IMPORT_SECONDS)
        if done.status == 0:
            return []
        reason = done.err.strip().splitlines()[-1:] or [f"exit status {done.status}"]
        title = "llama.cpp is installed and cannot be loaded"
        install = "pip install --force-reinstall xllamacpp"
        return [Finding.of(BROKEN, title, evidence=(*reason, *shown), commands=[install])]


async def _gguf_models(context: Any) -> list[str]:
    found: list[str] = []
    for store in context.stores:
        try:
            found += [model.name.short for model in await store.list() if model.format == "gguf"]
        except Exception:  # noqa: BLE001, S112 - other checks report the failures of stores
            continue
    return sorted(set(found))
