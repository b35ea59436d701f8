"""From an installed model to the launch of its runner: which backend, which context length, how wide."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ollmlx.errors import PluginError, Unsupported
from ollmlx.launch.spec import LaunchSpec
from ollmlx.model.names import ModelName
from ollmlx.plugin.contracts import LaunchOptions, can_spread
from ollmlx.text.quantities import format_size
from ollmlx.types import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollmlx.launch.overrides import ModelOverrides
    from ollmlx.plugin.contracts import Backend, Importer
    from ollmlx.plugin.registry import Registry
    from ollmlx.settings import Settings
    from ollmlx.supervisor.process.importers import Importers
    from ollmlx.types import InstalledModel, MemoryEstimate

logger = logging.getLogger(__name__)
FALLBACK_CONTEXT = 4096  # for a model that does not say how long its context is
SMALLEST_CONTEXT = 2048  # `context_length = 0` never shrinks below this to fit memory


class LaunchPlanner:
    """Makes `Launch`es. `budget` is the memory budget in bytes that an automatic context length has to fit."""

    def __init__(
        self, settings: Settings, registry: Registry, declarations: ModelOverrides, importers: Importers, budget: int
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._declarations = declarations
        self._importers = importers
        self._budget = budget

    def reconfigure(self, settings: Settings, declarations: ModelOverrides) -> None:
        """Use changed settings from the next launch on."""
        self._settings = settings
        self._declarations = declarations

    def keys(self, model: InstalledModel) -> tuple[str, ...]:
        """What identifies a model's runners: one key for each backend that may have loaded it."""
        cluster = self._cluster(model)
        return tuple(_key(model, backend, cluster) for backend in self._registry.backends.names())

    async def launch(self, model: InstalledModel, options: Options | None = None) -> LaunchSpec:
        """Everything the pool needs to load the model. Raises Unsupported when no backend runs it."""
        return await asyncio.to_thread(self._launch, model, options or Options())

    def backend(self, model: InstalledModel) -> str:
        """The name of the backend that runs a model. Reads files; raises Unsupported when none does."""
        return self._backend(model, self._preferred_backend(model)).name

    def importer(self, format: str) -> Importer | None:
        """The importer of the first backend that reads a foreign format, as the stores call it."""
        for backend in self._registry.backends.values():
            command = None
            with suppress(PluginError), self._registry.backends.blamed(backend.name):
                command = backend.importer(format)
            if command is not None:
                return self._importers.make(command)
        return None

    def _launch(self, model: InstalledModel, options: Options) -> LaunchSpec:
        declared = self._declarations.settings_for(model.name)
        runners, memory, storage = self._settings.runners, self._settings.memory, self._settings.storage
        backend = self._backend(model, options.backend or self._preferred_backend(model))
        parallel = declared.parallel if declared and declared.parallel is not None else runners.parallel
        fixed = options.num_ctx or (declared.context_length if declared else None) or runners.context_length
        cluster = self._cluster(model)
        context, estimate = self._context(_measure(backend, model, parallel, cluster), model, fixed)
        logger.debug(
            "%s: %s model of store %s, backend %s, context %d, needs %s",
            model.name.short, model.format, model.store, backend.name, context, format_size(estimate.total),
        )  # fmt: skip
        launch_options = LaunchOptions(
            context_length=context, parallel=parallel, kv_cache_type=runners.kv_cache_type, cluster=cluster
        )
        return LaunchSpec(
            key=_key(model, backend.name, cluster),
            model=model,
            backend=backend.name,
            command=backend.command(model, launch_options),
            context_length=context,
            parallel=parallel,
            estimate=estimate,
            keep_alive=declared.keep_alive if declared and declared.keep_alive is not None else runners.keep_alive,
            request_timeout=(
                declared.request_timeout
                if declared and declared.request_timeout is not None
                else runners.request_timeout
            ),
            pin=bool(declared and declared.pin),
            prompt_cache_bytes=None if memory.prompt_cache == "auto" else memory.prompt_cache,
            wired=memory.wired,
            cache_dir=self._settings.state_folder / "caches" if storage.cache_limit else None,
            cache_dir_bytes=storage.cache_limit,
            log_level=self._settings.logging.level,
            debug_prompts=self._settings.logging.prompts,
            allow_remote_code=_allowed(model, self._settings),
        )

    def _context(
        self, measure: Callable[[int], MemoryEstimate], model: InstalledModel, fixed: int | None
    ) -> tuple[int, MemoryEstimate]:
        own = model.details.context_length or FALLBACK_CONTEXT
        context = min(fixed, own) if fixed else own
        estimate = measure(context)
        while not fixed and context > SMALLEST_CONTEXT and estimate.total > self._budget // 2:
            context = max(SMALLEST_CONTEXT, context // 2)
            estimate = measure(context)
        return context, estimate

    def _backend(self, model: InstalledModel, preferred: str | None) -> Backend:
        """The backend that runs a model; for a model that is declared as a cluster, one that spreads models."""
        if self._cluster(model) is None:
            return self._registry.backend_for(model, preferred)
        for backend in self._registry.backends.values():
            if can_spread(backend) and preferred in (None, backend.name, backend.spreads):
                return self._registry.backend_for(model, backend.name)
        which = f"the backend {preferred} cannot spread a model" if preferred else "no backend can spread a model"
        raise Unsupported(
            f"{model.name.short} is declared as a cluster, and {which}",
            code="MDL005",
            hint=f'remove its cluster, or its backend, from [models."{model.name.short}"]',
        )

    def _cluster(self, model: InstalledModel) -> dict[str, Any] | None:
        declared = self._declarations.settings_for(model.name)
        return declared.cluster.model_dump(mode="json") if declared and declared.cluster else None

    def _preferred_backend(self, model: InstalledModel) -> str | None:
        declared = self._declarations.settings_for(model.name)
        return (declared.backend if declared else None) or model.defaults.options.backend


def _measure(
    backend: Backend, model: InstalledModel, parallel: int, cluster: dict[str, Any] | None
) -> Callable[[int], MemoryEstimate]:
    """What a model will take on this machine, for a context length."""
    if cluster is None:
        return lambda context: backend.estimate(model, context, parallel)
    assert can_spread(backend)
    return lambda context: backend.share(model, context, parallel, cluster)


def _key(model: InstalledModel, backend: str, cluster: dict[str, Any] | None) -> str:
    """What identifies a loaded model: its weights and what is decided at load time, not its name or defaults."""
    identity = (str(model.path), str(model.defaults.adapter or ""), str(model.defaults.draft or ""), backend, cluster)
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def _allowed(model: InstalledModel, settings: Settings) -> bool:
    return any(ModelName.parse(name) == model.name for name in settings.security.allow_remote_code)
