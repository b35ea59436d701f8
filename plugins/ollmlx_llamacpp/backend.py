"""The llama.cpp backend in the daemon: what it runs, what that costs, and with which program. Runs no native code."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ollmlx import LaunchOptions, Refusal, RunnerCommand, read_gguf_header
from ollmlx.errors import StorageError
from ollmlx.types import InstalledModel, MemoryEstimate
from ollmlx_llamacpp.estimate import Shape, estimate, slots
from ollmlx_llamacpp.settings import LlamaCppSettings

ENGINE: Final = "ollmlx_llamacpp.engine:LlamaCppEngine"
MISSING: Final = "ENV021"
INSTALL: Final = "pip install 'ollmlx[llamacpp]'"
PATIENT: Final = {"OMP_WAIT_POLICY": "passive"}
"""Threads sleep until the others are there. Beside other work, spinning cost 50 times as much (docs/benchmarks.md)."""
MEMO: Final = 64
LONGEST: Final = 4096
"""Items of the arrays that matter: one number a layer. Vocabularies are passed over."""


def xllamacpp_is_installed() -> bool:
    """Whether a runner could import it. Does not import it."""
    return importlib.util.find_spec("xllamacpp") is not None


class LlamaCppBackend:
    """Runs GGUF files."""

    name = "llamacpp"

    def __init__(
        self, settings: LlamaCppSettings, *, installed: Callable[[], bool], kv_cache_type: str = "auto"
    ) -> None:
        self._settings = settings
        self._installed = installed
        self._kv_cache_type = kv_cache_type
        self._memo: dict[tuple[Path, int, int], Shape] = {}

    def accepts(self, model: InstalledModel) -> Refusal | None:
        """None for a GGUF file, when llama.cpp is installed."""
        if model.format != "gguf":
            return Refusal(reason=f"it runs GGUF files, not {model.format}", code="MDL005")
        if not self._installed():
            return Refusal(reason="llama.cpp is not installed", hint=INSTALL, code=MISSING)
        return None

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        """Bytes for the files, the caches and the process. Raises StorageError for a file that is no usable GGUF."""
        need = estimate(self._shape(model.path), context, parallel, self._kv_cache_type)
        beside = sum(_size(file) for file in (model.defaults.projector, model.defaults.adapter) if file is not None)
        if model.defaults.draft is None:
            return need.model_copy(update={"weights": need.weights + beside})
        small = estimate(self._shape(model.defaults.draft), context, parallel, self._kv_cache_type)
        return MemoryEstimate(
            weights=need.weights + small.weights + beside,
            kv_cache=need.kv_cache + small.kv_cache,
            overhead=need.overhead,
            kv_per_token=need.kv_per_token + small.kv_per_token,
        )

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        """The runner with llama.cpp in it."""
        shape = self._shape(model.path)
        command = RunnerCommand.of_engine(
            ENGINE,
            slots=slots(shape, options.context_length, options.parallel, options.kv_cache_type),
            kv_cache_type=options.kv_cache_type,
            threads=self._settings.threads,
            gpu_layers=self._settings.gpu_layers,
            prompt_batch=self._settings.prompt_batch,
        )
        return command if self._settings.spin else command.model_copy(update={"env": PATIENT})

    def importer(self, format: str) -> RunnerCommand | None:
        """None: GGUF files are run as they are."""
        return None

    def _shape(self, file: Path) -> Shape:
        """What the header says; read once for each state of the file."""
        try:
            found = file.stat()
        except OSError as error:
            raise StorageError(f"{file.name} cannot be read: {error.strerror or error}", code="MDL003") from error
        state = (file, found.st_size, found.st_mtime_ns)
        if state not in self._memo:
            if len(self._memo) >= MEMO:
                self._memo.clear()
            self._memo[state] = Shape.of(read_gguf_header(file, longest=LONGEST))
        return self._memo[state]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise StorageError(f"{file.name} cannot be read: {error.strerror or error}", code="MDL003") from error
