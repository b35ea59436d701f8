"""The MLX backend in the daemon: what it runs, what that costs, and with which program. Imports no mlx."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ollmlx import LaunchOptions, Refusal, RunnerCommand
from ollmlx.errors import OllmlxError, StorageError, Unsupported
from ollmlx.types import InstalledModel, MemoryEstimate
from ollmlx_cluster.command import cluster_command
from ollmlx_cluster.hosts import LOCAL, check_heads, members
from ollmlx_mlx.daemon.estimate import Facts, choose_form, estimate, share
from ollmlx_mlx.daemon.folder import read_json, remote_code
from ollmlx_mlx.daemon.known_models import MODEL_TYPE, KnownModels
from ollmlx_mlx.daemon.machine import Machine
from ollmlx_mlx.daemon.settings import MlxSettings
from ollmlx_mlx.daemon.shape import cache_shape
from ollmlx_mlx.daemon.weight_sizes import folder_state, weight_sizes
from ollmlx_mlx.linux_cpu.blas import BlasAdvice, BlasChoice, Probe, advise, choose

ENGINE: Final = "ollmlx_mlx.engine.engine:MlxEngine"
FORMATS: Final = ("gguf", "mlx")
"""What the importer reads: `mlx` stands for a folder of safetensors, which it can quantise."""
FOREIGN: Final = {
    "gguf": (
        "it is a GGUF file",
        "llama.cpp runs GGUF files (pip install 'ollmlx[llamacpp]'); "
        "FROM ./FILE.gguf in a Modelfile for `ollmlx create` imports one for MLX",
    ),
    "ollama-safetensors": (
        "its weights lie in Ollama's own layout, a file for each tensor",
        "many models have a version for MLX: ollmlx pull mlx-community/NAME",
    ),
}
"""Formats that are often met and not run: why, and what would help."""
MEMO: Final = 64


class MlxBackend:
    """Runs MLX folders. `budget` answers the memory budget in bytes; `trusted` whether a model's code may run."""

    name = "mlx"

    def __init__(
        self,
        settings: MlxSettings,
        machine: Machine,
        probe: Probe,
        *,
        budget: Callable[[], int],
        trusted: Callable[[InstalledModel], bool],
        mlx_lm: Path | None,
        kv_cache_type: str = "auto",
    ) -> None:
        self._settings = settings
        self._machine = machine
        self._probe = probe
        self._budget = budget
        self._trusted = trusted
        self._known = KnownModels(mlx_lm) if mlx_lm is not None else None
        self._kv_cache_type = kv_cache_type
        self._chosen: BlasChoice | None = None
        self._memo: dict[tuple[object, ...], Facts] = {}

    def accepts(self, model: InstalledModel) -> Refusal | None:
        """None for an MLX folder of a type that the installed mlx-lm serves and that needs no foreign code."""
        if model.format in FOREIGN:
            reason, hint = FOREIGN[model.format]
            return Refusal(reason=reason, hint=hint, code="MDL005")
        if model.format != "mlx":
            return Refusal(reason=f"it runs MLX folders, not {model.format}", code="MDL005")
        if self._known is None or not self._machine.has_mlx:
            return Refusal(reason="MLX is not installed", hint=install_command(self._machine), code="ENV001")
        try:
            return self._refuse_folder(model, self._known)
        except OllmlxError as error:
            return Refusal(reason=error.message, hint=error.hint, code=error.code)

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        """Bytes for weights in the form they will be loaded in, caches, and the process itself."""
        facts = self._facts(model.path)
        need = estimate(facts, context, parallel)
        if model.defaults.draft is None:
            return need
        small = estimate(self._facts(model.defaults.draft), context, 1)
        return MemoryEstimate(
            weights=need.weights + small.weights,
            kv_cache=need.kv_cache + small.kv_cache,
            overhead=need.overhead,
            kv_per_token=need.kv_per_token + small.kv_per_token,
        )

    def share(self, model: InstalledModel, context: int, parallel: int, cluster: Mapping[str, Any]) -> MemoryEstimate:
        """Bytes that the ranks on this machine hold. A group serves one request at a time, whatever `parallel` is.

        Raises ConfigError when the hosts cannot be a group for this model, Unsupported for what a group cannot load.
        """
        for what in ("adapter", "draft"):
            if getattr(model.defaults, what) is not None:
                raise Unsupported(
                    f"{model.name.short} cannot be spread with its {what}",
                    code="MDL007",
                    hint=f'remove {what} from [models."{model.name.short}"], or its cluster',
                )
        names = members([str(host) for host in cluster.get("hosts", ())])
        facts = self._facts(model.path)
        if cluster.get("mode", "tensor") == "tensor":
            check_heads(facts.config, len(names))
        latents = self._known is not None and self._known.keeps_latents(facts.config)
        here = sum(name in LOCAL for name in names)
        split_cache = cluster.get("mode") == "pipeline" or not latents
        return share(facts, context, len(names), here, split_cache=split_cache)

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        """The runner, with the fastest BLAS that works here. The first call on a machine tries the candidates out."""
        blas = self.blas()
        facts = self._facts(model.path)
        streams = 1 if options.cluster else blas.streams
        notes = [facts.why]
        if self._machine.device == "cpu" and self._machine.system == "linux":
            notes.append(blas.warning or f"matrix products with {blas.name}")
            if streams > 1:
                notes.append(f"computes on {streams} CPU streams")
        command = RunnerCommand(
            argv=(sys.executable, "-P", "-m", "ollmlx.runner", "--engine", ENGINE, "--fd", "{fd}"),
            env=blas.env,
            engine_options={
                "weights": facts.form,
                "streams": streams,
                "kv_cache_type": options.kv_cache_type,
                "notes": notes,
            },
        )
        return cluster_command(command, options.cluster) if options.cluster else command

    def importer(self, format: str) -> RunnerCommand | None:
        """The program that makes an MLX folder from a GGUF file, or quantises a folder of safetensors."""
        if format not in FORMATS:
            return None
        return RunnerCommand(argv=(sys.executable, "-P", "-m", "ollmlx_mlx.importer"))

    def blas(self) -> BlasChoice:
        """What a child will compute its matrix products with. The first call may probe for a second: use a thread."""
        if self._chosen is None:
            self._chosen = choose(self._machine, self._probe, wish=self._settings.blas, threads=self._settings.threads)
        return self._chosen

    def blas_advice(self) -> BlasAdvice:
        """What the doctor says of it: what is used, how much faster than the reference, what would help."""
        return advise(self._machine, self._probe, wish=self._settings.blas, threads=self._settings.threads)

    def _refuse_folder(self, model: InstalledModel, known: KnownModels) -> Refusal | None:
        config = _config(model.path)
        kind = config.get("model_type")
        if not isinstance(kind, str) or not MODEL_TYPE.fullmatch(kind):
            return Refusal(reason="config.json names no usable model_type", hint="ollmlx doctor storage", code="MDL003")
        asked = remote_code(model.path)
        if asked is not None and not self._trusted(model):
            return Refusal(
                reason=f"it asks for its own Python code to be run ({asked})",
                hint=f'if you trust it: [security] allow_remote_code = ["{model.name.short}"]',
                code="SEC005",
            )
        if known.module(kind) is None and not config.get("model_file"):
            return Refusal(
                reason=f"the installed mlx-lm does not know the model type {kind!r}",
                hint="pip install --upgrade mlx-lm",
                code="MDL004",
            )
        self._facts(model.path)
        return None

    def _facts(self, folder: Path) -> Facts:
        """What is known of a model in this folder; worked out once for each state of its files."""
        state = folder_state(folder)
        if state not in self._memo:
            if len(self._memo) >= MEMO:
                self._memo.clear()
            self._memo[state] = self._read_facts(folder)
        return self._memo[state]

    def _read_facts(self, folder: Path) -> Facts:
        config = _config(folder)
        known = self._known
        complete = known.complete(config) if known else config
        device = self._machine.device
        sizes = weight_sizes(folder, config)
        form, why = choose_form(device, sizes, self._settings.weights, self._budget(), self._settings.float32_share)
        return Facts(
            device=device,
            form=form,
            why=why,
            sizes=sizes,
            cache=cache_shape(
                complete,
                rotates=known is not None and known.rotates(config),
                latents=known is not None and known.keeps_latents(config),
            ),
            config=complete,
            kv_cache_type=self._kv_cache_type,
        )


def install_command(machine: Machine) -> str:
    """What brings MLX to this machine."""
    if machine.system == "darwin":
        return "pip install ollmlx"
    return "pip install 'ollmlx[cuda]' (NVIDIA) or pip install 'ollmlx[cpu]'"


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder, "config.json")
    if config is None:
        raise StorageError(f"{folder.name} has no config.json", code="MDL003", hint="ollmlx doctor storage")
    return config
