"""The doctor's checks of llama.cpp: it is installed and loads when models need it, and runs those it is fastest for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ollmlx import Finding, ModelName, Severity
from ollmlx.types import InstalledModel
from ollmlx_llamacpp.backend import INSTALL, MISSING, pyav_is_installed

BROKEN: Final = "ENV022"
SLOWER: Final = "ENV007"
IMPORT_SECONDS: Final = 8
MODELS_SHOWN: Final = 10


@dataclass(frozen=True)
class LlamaCppCheck:
    """Finds nothing as long as no GGUF model is installed. `installed` tells whether xllamacpp is installed,
    and `decodes` whether PyAV is.
    """

    installed: Callable[[], bool]
    decodes: Callable[[], bool] = pyav_is_installed

    name = "llama.cpp"
    group = "machine"
    codes = (MISSING, BROKEN, SLOWER)

    async def run(self, context: Any) -> Sequence[Finding]:
        """List the GGUF models; when there are any, load the library in a child process. Then look for slow imports."""
        if context.plugins is None:
            return await self._usable(context)
        return [*await self._usable(context), *await self._slow_imports(context)]

    async def _usable(self, context: Any) -> Sequence[Finding]:
        models = [*await _models(context, "gguf")]
        if not models:
            return []
        more = len(models) - MODELS_SHOWN
        shown = (*models[:MODELS_SHOWN], *([f"and {more} more"] if more > 0 else []))
        if not self.installed():
            title = "GGUF models are installed and llama.cpp, which runs them, is not"
            return [Finding.of(MISSING, title, evidence=shown, commands=[INSTALL], severity=Severity.WARNING)]
        seconds = min(IMPORT_SECONDS, context.left())
        done = await context.child([sys.executable, "-P", "-c", "import xllamacpp"], seconds)
        if done.status is None and seconds < IMPORT_SECONDS:
            late = "skipped: there was no time to try whether llama.cpp can be loaded"
            return [Finding.of(BROKEN, late, severity=Severity.SKIPPED)]
        if done.status == 0:
            return await self._deaf(context)
        reason = done.err.strip().splitlines()[-1:] or [f"exit status {done.status}"]
        title = "llama.cpp is installed and cannot be loaded"
        install = "pip install --force-reinstall xllamacpp"
        return [Finding.of(BROKEN, title, evidence=(*reason, *shown), commands=[install])]

    async def _deaf(self, context: Any) -> Sequence[Finding]:
        """Report models with an audio encoder where their sounds cannot be decoded."""
        models = (await _models(context, "gguf")).items()
        hearing = [name for name, model in models if model.projector_info.get("clip.has_audio_encoder")]
        if not hearing or self.decodes():
            return []
        title = "models that hear are installed and PyAV, which decodes sounds, is not"
        return [Finding.of(MISSING, title, evidence=hearing, commands=[INSTALL], severity=Severity.WARNING)]

    async def _slow_imports(self, context: Any) -> Sequence[Finding]:
        """Report models that MLX runs on the CPU and that were imported from a GGUF file."""
        registry = context.plugins.registry
        if not self.installed() or getattr(registry.backends.get("mlx"), "device", None) != "cpu":
            return []
        overrides = {ModelName.parse(name) for name, model in context.settings.models.items() if model.backend == "mlx"}
        title = "MLX runs it on the CPU: llama.cpp gives 3 to 7 times the tokens a second, with a sixth of the memory"
        return [
            Finding.of(
                SLOWER,
                f"{name}: {title}",
                severity=Severity.WARNING,
                subject=name,
                evidence=["measured with two models on two cores: docs/benchmarks.md", *_made_from(model)],
                commands=[f"ollmlx create {name} -f Modelfile" if _made_from(model) else f"ollmlx pull {name}"],
            )
            for name, model in (await _models(context, "mlx")).items()
            if model.name not in overrides and (_own_file(model) or _came_as_gguf(model, registry))
        ]


def _made_from(model: InstalledModel) -> list[str]:
    """Return the evidence that a person created the model, from a file or from another model; nothing for others."""
    base = _own_file(model) or model.details.parent_model
    return [f"made from {base}: a Modelfile with FROM and that makes it again"] if base else []


def _own_file(model: InstalledModel) -> str:
    """Return the person's own GGUF file from which a model was created, or ""."""
    kind, _, file = model.source.partition(":")
    return file if kind == "gguf" else ""


def _came_as_gguf(model: InstalledModel, registry: Any) -> bool:
    """Return True if the source that the model was pulled from provides it as a GGUF file."""
    source = registry.sources.get(model.source.partition(":")[0])
    try:
        return source is not None and source.provides(model.name) is not None and source.format(model.name) == "gguf"
    except Exception:  # noqa: BLE001 - other checks report the failures of sources
        return False


async def _models(context: Any, format: str) -> dict[str, InstalledModel]:
    """Return the installed models of a format by their names, sorted."""
    found = {model.name.short: model for model in await context.models() if model.format == format}
    return dict(sorted(found.items()))
