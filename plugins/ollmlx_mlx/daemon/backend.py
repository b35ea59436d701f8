"""The MLX backend in the daemon: which models it runs, what they cost, and the command of their runners.

Imports no mlx.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ollmlx import DIALECT_KEY, LaunchOptions, ModelName, Refusal, RunnerCommand, ThisMachine, find_budget
from ollmlx.errors import OllmlxError
from ollmlx.storekit import read_recipe, require_json
from ollmlx.types import InstalledModel, MemoryEstimate
from ollmlx_mlx.daemon.estimate import ModelFacts, cache_shape, choose_form, estimate, pool_tokens
from ollmlx_mlx.daemon.known_models import MODEL_TYPE, KnownModels, installed_mlx_lm
from ollmlx_mlx.daemon.machine import BlasChoice, BlasChooser, MlxMachine
from ollmlx_mlx.folder import folder_state, is_encoder, remote_code, weight_sizes

ENGINE: Final = "ollmlx_mlx.engine.engine:MlxEngine"
ENCODER_ENGINE: Final = "ollmlx_mlx.engine.encoder.engine:EncoderEngine"
LARGE_PAGES: Final = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Variables with which glibc asks for pages of 2 MiB. Memory of 4 KiB pages takes as long to get as to fill."""
FORMATS: Final = ("gguf", "mlx")
"""Formats that the importer reads; `mlx` stands for a folder of safetensors, which it can quantise."""
FOREIGN: Final = {
    "gguf": (
        "it is a GGUF file",
        "llama.cpp runs GGUF files (pip install 'ollmlx[llamacpp]'); "
        "FROM ./FILE.gguf in a Modelfile for `ollmlx create` imports one for MLX",
    ),
    "ollama-safetensors": (
        "its layers are not those of a model that MLX reads",
        "many models have a version for MLX: ollmlx pull mlx-community/NAME",
    ),
}
"""Common formats that this backend does not run: the reason, and what would help."""
_REMEMBERED: Final = 64
"""Folders whose facts are kept in memory."""

B = TypeVar("B", bound="MlxBackend")


class MlxSettings(BaseModel):
    """`[plugins.mlx]`: how MLX models are run. The defaults suit every machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blas: str = Field(
        "auto",
        description="Linux CPU: library for matrix products. auto: OpenBLAS or MKL, tried out first; off; or a path.",
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Linux CPU: cores to compute on; two are used by two CPU streams, more by threads of that library."
        " 0: physical cores.",
    )
    weights: Literal["auto", "float32", "quantized"] = Field(
        "auto",
        description="Linux CPU: unpack quantised weights to float32, which is several times faster and larger."
        " auto: when they fit 40 % of the memory budget.",
    )


@dataclass(eq=False)
class MlxBackend:
    """Runs MLX folders. `budget` returns the memory budget in bytes; `trusted` says whether a model's code may run."""

    name = "mlx"
    engine: ClassVar[str] = ENGINE
    """The engine of models that write."""

    settings: MlxSettings
    machine: MlxMachine
    chooser: BlasChooser = field(default_factory=BlasChooser)
    _: KW_ONLY
    budget: Callable[[], int]
    trusted: Callable[[InstalledModel], bool]
    mlx_lm: Path | None
    kv_cache_type: str = "auto"

    def __post_init__(self) -> None:
        self._known = KnownModels(self.mlx_lm) if self.mlx_lm is not None else None
        self._chosen: BlasChoice | None = None
        self._facts = lru_cache(_REMEMBERED)(self._read_facts)

    runs: tuple[str, ...] = ()
    """No foreign format: what it does not run is imported."""

    @property
    def device(self) -> str:
        """The device that MLX computes on here."""
        return self.machine.device

    def accepts(self, model: InstalledModel) -> Refusal | None:
        """Return None for an MLX folder of a type that the installed mlx-lm serves and that needs no foreign code."""
        if model.format in FOREIGN:
            reason, hint = FOREIGN[model.format]
            if DIALECT_KEY in model.info:  # the backend of its format says more
                return Refusal(reason=reason, code="MDL005")
            missing = model.info.get("ollmlx.layers")
            return Refusal(reason=f"{reason}: {missing}" if missing else reason, hint=hint, code="MDL005")
        if model.format != "mlx":
            return Refusal(reason=f"it runs MLX folders, not {model.format}", code="MDL005")
        if self._known is None or not self.machine.has_mlx:
            return Refusal(reason="MLX is not installed", hint=install_command(self.machine), code="ENV001")
        try:
            return self._refuse_folder(model, self._known)
        except OllmlxError as error:
            return Refusal(reason=error.message, hint=error.hint, code=error.code)

    def sees(self, model: InstalledModel) -> bool:
        """Return False: mlx-lm reads text only."""
        return False

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        """Return the bytes for the weights in the form they will be loaded in, the caches, and the process itself."""
        need = estimate(self.facts(model.path), context, parallel, self.budget())
        if model.defaults.draft is None:
            return need
        small = estimate(self.facts(model.defaults.draft), context, 1)
        return MemoryEstimate(
            weights=need.weights + small.weights,
            kv_cache=need.kv_cache + small.kv_cache,
            overhead=need.overhead,
            kv_per_token=need.kv_per_token + small.kv_per_token,
        )

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        """Return the runner's command, with the fastest BLAS that works here.

        The first call on a machine tries the libraries out.
        """
        return self.runner_command(model, options, streams=self.blas().streams)

    def runner_command(self, model: InstalledModel, options: LaunchOptions, *, streams: int) -> RunnerCommand:
        """As `command`, for a runner that computes on this number of CPU streams."""
        blas = self.blas()
        facts = self.facts(model.path)
        notes = [facts.why]
        if self.machine.device == "cpu" and self.machine.system == "linux":
            notes.append(blas.warning or f"matrix products with {blas.name}")
            if streams > 1:
                notes.append(f"computes on {streams} CPU streams")
            if not facts.encoder:
                notes.append("an answer is the same alone, beside others and from the cache")
        pool = pool_tokens(facts, options.context_length, options.parallel, self.budget())
        command = RunnerCommand.of_engine(
            ENCODER_ENGINE if facts.encoder else self.engine,
            weights=facts.form,
            streams=streams,
            pool_tokens=0 if facts.encoder else pool,
            kv_cache_type=options.kv_cache_type,
            notes=notes,
        )
        pages = LARGE_PAGES if self.machine.device == "cpu" and self.machine.system == "linux" else {}
        return command.model_copy(update={"env": {**pages, **blas.env}})

    def importer(self, format: str) -> RunnerCommand | None:
        """Return the program that makes an MLX folder from a GGUF file, or quantises a folder of safetensors."""
        if format not in FORMATS:
            return None
        return RunnerCommand(argv=(sys.executable, "-P", "-m", "ollmlx_mlx.importer"))

    def blas(self) -> BlasChoice:
        """Return the library for a child's matrix products. The first call may take a second: use a thread."""
        if self._chosen is None or self._chosen.gone:
            self._chosen = self.chooser.choose(self.settings.blas, self.settings.threads)
        return self._chosen

    def blas_advice(self) -> BlasChoice:
        """Return what the doctor reports: the library, how much faster than the reference, what would help."""
        return self.chooser.advise(self.settings.blas, self.settings.threads)

    def trial(self, model: InstalledModel) -> str | None:
        """Return the module that loads a model on trial for the doctor."""
        return "ollmlx_mlx.engine.dry_load"

    def facts(self, folder: Path) -> ModelFacts:
        """Return what decides about the memory of the model in a folder; worked out once for each state of its files.

        Raises StorageError when files are missing or damaged.
        """
        return self._facts(folder, folder_state(folder))

    def _refuse_folder(self, model: InstalledModel, known: KnownModels) -> Refusal | None:
        config = require_json(model.path, "config.json")
        kind = config.get("model_type")
        if not isinstance(kind, str) or not MODEL_TYPE.fullmatch(kind):
            return Refusal(reason="config.json names no usable model_type", hint="ollmlx doctor storage", code="MDL003")
        read_recipe(model.path)
        if is_encoder(config):  # its code is ours: nothing of the folder is run
            self.facts(model.path)
            return None
        code = remote_code(model.path)
        if code is not None and not self.trusted(model):
            return Refusal(
                reason=f"it asks for its own Python code to be run ({code})",
                hint=f'if you trust it: [security] allow_remote_code = ["{model.name.short}"]',
                code="SEC005",
            )
        if known.module(kind) is None and model.capabilities == ("embedding",):
            return Refusal(
                reason=f"no encoder of the type {kind!r} is known here",
                hint="choose a model of another type (docs/embeddings.md lists them), or a GGUF file of this one",
                code="MDL004",
            )
        if not config.get("model_file") and (refusal := self.knows(kind)) is not None:
            return refusal
        self.facts(model.path)
        return None

    def knows(self, kind: str) -> Refusal | None:
        """Return None for a model type that the engine can read."""
        if self._known is not None and self._known.module(kind) is not None:
            return None
        return Refusal(
            reason=f"the installed mlx-lm does not know the model type {kind!r}",
            hint="pip install --upgrade mlx-lm",
            code="MDL004",
        )

    def _read_facts(self, folder: Path, state: object) -> ModelFacts:
        config = require_json(folder, "config.json")
        known = self._known
        complete = known.complete(config) if known else config
        latents = known is not None and known.keeps_latents(config)
        device = self.machine.device
        sizes = weight_sizes(folder, config)
        encoder = is_encoder(config)
        form, why = choose_form(device, sizes, self.settings.weights, self.budget())
        if encoder and sizes.quantized:
            form, why = "float32", "weights unpacked: an encoder reads them for many tokens at once"
        return ModelFacts(
            device=device,
            form=form,
            why=why,
            sizes=sizes,
            cache=cache_shape(complete, rotates=known is not None and known.rotates(config), latents=latents),
            latents=latents,
            config=complete,
            kv_cache_type=self.kv_cache_type,
            encoder=encoder,
        )


def make_backend(settings: Any, kind: type[B]) -> B:
    """Return a backend of this kind for this machine and these settings (`ollmlx.settings.Settings`)."""
    machine = MlxMachine.here()
    trusted = {ModelName.parse(name) for name in settings.security.allow_remote_code}
    try:
        own = MlxSettings.model_validate(settings.plugins.table("mlx"))
    except ValidationError:  # the plugin `mlx` is off for this reason
        own = MlxSettings()
    return kind(
        own,
        machine,
        find_blas(machine, settings.state_folder / "blas.json"),
        budget=cache(lambda: find_budget(settings.memory, ThisMachine()).size),
        trusted=lambda model: model.name in trusted,
        mlx_lm=installed_mlx_lm(),
        kv_cache_type=settings.runners.kv_cache_type,
    )


def find_blas(machine: MlxMachine, memory: Path | None) -> BlasChooser:
    """Return what chooses a BLAS here: `linux_cpu` where it is installed.

    `memory`: the file of probe results. Its folder has the copy of OpenBLAS that children load.
    """
    if find_spec("ollmlx_mlx.linux_cpu") is None:
        return BlasChooser()
    from ollmlx_mlx.linux_cpu.blas import TunedBlas
    from ollmlx_mlx.linux_cpu.blas_probe import ChildProbe, ProbeMemory
    from ollmlx_mlx.linux_cpu.openblas import PlainCopies

    probe = ChildProbe(machine, ProbeMemory(memory))
    return TunedBlas(machine, probe.problem, probe.seconds, PlainCopies(memory and memory.parent))


def install_command(machine: MlxMachine) -> str:
    """Return the command that installs MLX on this machine."""
    if machine.system == "darwin":
        return "pip install ollmlx"
    return "pip install 'ollmlx[cuda]' (NVIDIA) or pip install 'ollmlx[cpu]'"
