"""The launch planner: from an installed model to its launch spec, with the engine, context length and memory plan."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ollmlx.errors import PluginError, Unsupported
from ollmlx.launch.engine_choice import EngineChoice, backend_that_keeps, explain
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.launch.spec import LaunchSpec
from ollmlx.model.names import ModelName
from ollmlx.plugin.contracts import Backend, Importer, LaunchOptions, RunnerCommand, can_convert, can_spread
from ollmlx.plugin.registry import Registry
from ollmlx.settings.model import ModelSettings, Settings
from ollmlx.storekit.saved_caches import SavedCaches
from ollmlx.text.quantities import format_size
from ollmlx.types import InstalledModel, MemoryEstimate, Options

logger = logging.getLogger(__name__)
FALLBACK_CONTEXT = 4096  # for a model that does not say how long its context is
SMALLEST_CONTEXT = 2048  # an automatic context length is never shorter than this
CONTEXT_STEP = 1024
MAX_PLANS = 256
"""Plans that are kept for warm requests. A client can name any `num_ctx`, so their number needs a limit."""


@dataclass(eq=False)
class LaunchPlanner:
    """Makes launch specs, and keeps them for requests that find their model loaded.

    `memory_budget` is the number of bytes that an automatic context length has to fit. `make_importer` turns the
    command of a backend's importer into an importer. `is_loaded` says whether a launch key has a runner.
    """

    _settings: Settings
    _registry: Registry
    _overrides: ModelOverrides
    _make_importer: Callable[[RunnerCommand], Importer]
    _memory_budget: int
    _is_loaded: Callable[[str], bool]
    _plans: OrderedDict[tuple[object, ...], LaunchSpec] = field(default_factory=OrderedDict)

    def reconfigure(self, settings: Settings, overrides: ModelOverrides) -> None:
        """Use changed settings from the next plan on. Plans made with the old settings are forgotten."""
        self._settings = settings
        self._overrides = overrides
        self._plans.clear()

    async def plan(self, model: InstalledModel, options: Options | None = None) -> LaunchSpec:
        """Choose backend, context length and memory. Reads files, in a thread. A loaded model is not planned again.

        Raises Unsupported without a backend.
        """
        options, defaults = options or Options(), model.defaults
        # A plan follows from these and the settings. The digest changes with the files.
        origin = (
            model.name, model.digest, model.path, defaults.adapter, defaults.draft, defaults.options.backend,
            options.backend, options.num_ctx,
        )  # fmt: skip
        spec = self._plans.get(origin)
        if spec is None or not self._is_loaded(spec.key):
            spec = self._plans[origin] = await asyncio.to_thread(self._plan, model, options)
            while len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
        return spec

    def fits(self, spec: LaunchSpec) -> bool:
        """Return whether a model's estimate is within the memory budget, when nothing else is loaded."""
        return spec.estimate.total <= self._memory_budget

    def keys(self, model: InstalledModel) -> tuple[str, ...]:
        """Return the launch keys that a model may be loaded under: one for each backend."""
        cluster = _cluster(self._overrides.models.get(model.name))
        return tuple(_launch_key(model, backend, cluster) for backend in self._registry.backends.names())

    def engine(self, model: InstalledModel) -> EngineChoice:
        """Return the backend that runs a model, and why. Reads files. Raises Unsupported when none does."""
        preferred = self._preferred(model, Options())
        return explain(model, self._backend(model, Options()), preferred, self._registry)

    def backend_that_keeps(self, format: str) -> str | None:
        """Return the name of the backend for which this machine keeps a foreign format; None where it is imported."""
        backend = backend_that_keeps(format, self._registry)
        return backend.name if backend is not None else None

    def importer(self, format: str) -> Importer | None:
        """Return the importer of the first backend that reads a foreign format, as the stores call it."""
        return self._program(lambda backend: backend.importer(format))

    def converter(self, format: str) -> Importer | None:
        """Return the converter of the first backend that has one for a format which it runs as it is."""
        return self._program(lambda backend: backend.converter(format) if can_convert(backend) else None)

    def _program(self, command_of: Callable[[Backend], RunnerCommand | None]) -> Importer | None:
        for backend in self._registry.backends.values():
            command = None
            with suppress(PluginError), self._registry.backends.errors_named(backend.name):
                command = command_of(backend)
            if command is not None:
                return self._make_importer(_confined(command, sandbox=self._settings.runners.sandbox))
        return None

    def _plan(self, model: InstalledModel, options: Options) -> LaunchSpec:
        overrides = self._overrides.models.get(model.name) or ModelSettings()
        runners, memory = self._settings.runners, self._settings.memory
        backend = self._backend(model, options)
        choice = explain(model, backend, self._preferred(model, options), self._registry)
        parallel = runners.parallel if overrides.parallel is None else overrides.parallel
        cluster = _cluster(overrides)
        context, estimate = self._plan_memory(
            model,
            fixed_context=options.num_ctx or overrides.context_length or runners.context_length,
            estimate=_estimator(backend, model, parallel, cluster),
        )
        logger.info(
            "%s: engine %s (%s); context %d, needs %s",
            model.name.short, choice.backend, choice.why, context, format_size(estimate.total),
        )  # fmt: skip
        launch_options = LaunchOptions(
            context_length=context, parallel=parallel, kv_cache_type=runners.kv_cache_type, cluster=cluster
        )
        timeout = runners.request_timeout if overrides.request_timeout is None else overrides.request_timeout
        return LaunchSpec(
            key=_launch_key(model, backend.name, cluster),
            model=model,
            backend=backend.name,
            why=choice.why,
            command=_confined(backend.command(model, launch_options), sandbox=runners.sandbox),
            context_length=context,
            parallel=parallel,
            estimate=estimate,
            keep_alive=runners.keep_alive if overrides.keep_alive is None else overrides.keep_alive,
            request_timeout=timeout,
            pin=overrides.pin,
            prompt_cache_bytes=_prompt_cache(model, memory.prompt_cache),
            runner_settings={
                "wired": memory.wired,
                **self._saved_caches(model),
                "owned_caches": self._settings.security.owned_caches,
                "log_level": self._settings.logging.level,
                "debug_prompts": self._settings.logging.prompts,
                "allow_remote_code": model.name in map(ModelName.parse, self._settings.security.allow_remote_code),
            },
        )

    def _saved_caches(self, model: InstalledModel) -> dict[str, Any]:
        """Return the fields of RunnerConfig for saved prompt caches. Raises StorageError without a usable key."""
        if not self._settings.cache_limit:
            return {}
        caches = SavedCaches(self._settings.caches_folder)
        key = caches.key() if self._settings.storage.encrypt_caches else None
        return {"cache_dir": caches.of(model), "cache_dir_bytes": self._settings.cache_limit, "cache_key": key}

    def _plan_memory(
        self, model: InstalledModel, fixed_context: int | None, estimate: Callable[[int], MemoryEstimate]
    ) -> tuple[int, MemoryEstimate]:
        """Return the context length, and the memory that the model needs with it.

        A fixed context is at most the model's own. An automatic one is the model's own where the estimate fits the
        budget, else the longest that fits.
        """
        if "speech" in model.capabilities:  # it reads a sentence at a time, and has no context
            return 0, estimate(0)
        longest = model.details.context_length or FALLBACK_CONTEXT
        if fixed_context:
            context = min(fixed_context, longest)
            return context, estimate(context)
        whole = estimate(longest)
        if longest <= SMALLEST_CONTEXT or whole.total <= self._memory_budget:
            return longest, whole
        context = self._longest_that_fits(longest, estimate)
        logger.info(
            "%s: a context of %d tokens, not %d: that needs %s (%s of it for the context), more than the budget of %s",
            model.name.short, context, longest, format_size(whole.total), format_size(whole.kv_cache),
            format_size(self._memory_budget),
        )  # fmt: skip
        return context, estimate(context)

    def _longest_that_fits(self, longest: int, estimate: Callable[[int], MemoryEstimate]) -> int:
        fits, too_long = SMALLEST_CONTEXT // CONTEXT_STEP, -(-longest // CONTEXT_STEP)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if estimate(middle * CONTEXT_STEP).total <= self._memory_budget:
                fits = middle
            else:
                too_long = middle
        return fits * CONTEXT_STEP

    def _backend(self, model: InstalledModel, options: Options) -> Backend:
        """Choose the backend, as the request, the settings or the model prefer. A cluster needs one that spreads."""
        overrides, preferred = self._overrides.models.get(model.name), self._preferred(model, options)
        if _cluster(overrides) is None:
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

    def _preferred(self, model: InstalledModel, options: Options) -> str | None:
        overrides = self._overrides.models.get(model.name)
        return options.backend or (overrides.backend if overrides else None) or model.defaults.options.backend


def _estimator(
    backend: Backend, model: InstalledModel, parallel: int, cluster: dict[str, Any] | None
) -> Callable[[int], MemoryEstimate]:
    """Return a function from a context length to the memory that the model takes on this machine."""
    if cluster is None:
        return lambda context: backend.estimate(model, context, parallel)
    assert can_spread(backend)
    return lambda context: backend.share(model, context, parallel, cluster)


def _cluster(overrides: ModelSettings | None) -> dict[str, Any] | None:
    return overrides.cluster.model_dump(mode="json") if overrides and overrides.cluster else None


def _prompt_cache(model: InstalledModel, stated: int | str) -> int | None:
    """Return the bytes for a prefix cache, None for a share of the memory; 0 for models that do not answer."""
    if "completion" not in model.capabilities:
        return 0
    return stated if isinstance(stated, int) else None


def _confined(command: RunnerCommand, *, sandbox: bool) -> RunnerCommand:
    """Return the command with the variable that tells the program how far it is confined."""
    return command.model_copy(update={"env": {**command.env, "OLLMLX_SANDBOX": command.sandbox if sandbox else "off"}})


def _launch_key(model: InstalledModel, backend: str, cluster: dict[str, Any] | None) -> str:
    """Identify a loaded model by its files and what is decided at load time, not by its name or defaults."""
    identity = (str(model.path), str(model.defaults.adapter or ""), str(model.defaults.draft or ""), backend, cluster)
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
