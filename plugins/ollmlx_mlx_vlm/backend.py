"""The backend for models that see, in the daemon: which ones it runs, and the command of their runners.

Imports neither mlx nor mlx-vlm.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Final

from ollmlx import Refusal, RunnerCommand, read_safetensors_header
from ollmlx.storekit import read_json
from ollmlx.types import InstalledModel, MemoryEstimate
from ollmlx_mlx.daemon.backend import MlxBackend
from ollmlx_mlx.folder import WEIGHTS, folder_state
from ollmlx_mlx_vlm.families import FAMILIES, REFUSED
from ollmlx_mlx_vlm.work_space import work_space

ENGINE: Final = "ollmlx_mlx_vlm.engine.engine:MlxVlmEngine"
MISSING: Final = "ENV025"
INSTALL: Final = "pip install 'ollmlx[vision]'"
OTHERS: Final = f"families whose pictures are read: {', '.join(FAMILIES)}; llama.cpp reads pictures with GGUF files"


def vlm_is_installed() -> bool:
    """Return whether a runner could import mlx-vlm. Does not import it."""
    return find_spec("mlx_vlm") is not None


class MlxVlmBackend(MlxBackend):
    """Runs MLX folders that have a vision encoder. It has the settings of the MLX backend."""

    name = "mlx_vlm"
    engine: ClassVar[str] = ENGINE

    def accepts(self, model: InstalledModel) -> Refusal | None:
        """Return None for an MLX folder of a family that is known here, when mlx-vlm is installed."""
        if model.format != "mlx":
            return Refusal(reason=f"it runs MLX folders, not {model.format}", code="MDL005")
        if not _has_encoder(model):
            return Refusal(reason="the model has no vision encoder", code="MDL005")
        if refusal := super().accepts(model):
            return refusal
        if missing := _missing_part(model.path, folder_state(model.path)):
            return Refusal(reason=f"it reads no pictures with this model: it has no {missing}", code="MDL005")
        return None

    def sees(self, model: InstalledModel) -> bool:
        """Return whether it answers pictures with this model."""
        return self.accepts(model) is None

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        """Return the bytes as for text, and those for the largest picture that the encoder looks at."""
        need = super().estimate(model, context, parallel)
        on_cpu = self.machine.device == "cpu"
        work = work_space(model.path, 4 if on_cpu else 2, on_cpu=on_cpu)
        return need.model_copy(update={"overhead": need.overhead + work})

    def trial(self, model: InstalledModel) -> str | None:
        """Return the module that loads a model on trial, its encoder included."""
        return "ollmlx_mlx_vlm.engine.dry_load"

    def knows(self, kind: str) -> Refusal | None:
        """Return None for a family whose pictures are read here, when mlx-vlm is installed."""
        if kind not in FAMILIES:
            why = REFUSED.get(kind, "its answers are not tested to be mlx-vlm's own")
            return Refusal(
                reason=f"it does not read pictures for the model type {kind!r}: {why}", hint=OTHERS, code="MDL004"
            )
        if not vlm_is_installed():
            return Refusal(reason="mlx-vlm is not installed", hint=INSTALL, code=MISSING)
        return None

    def importer(self, format: str) -> RunnerCommand | None:
        """Return None: the MLX backend imports."""
        return None


def is_readable(model: InstalledModel) -> bool:
    """Return whether a model has a vision encoder, and is of a family whose pictures are read here."""
    return model.format == "mlx" and "vision" in model.capabilities and model.details.family in FAMILIES


@lru_cache(64)
def _missing_part(folder: Path, state: object) -> str | None:
    """Return what a folder lacks to see with, or None. Conversions for text leave the encoder out."""
    if not any((folder / name).exists() for name in ("preprocessor_config.json", "processor_config.json")):
        return "file that says how pictures are prepared"
    names = (name for file in folder.glob(WEIGHTS) for name in read_safetensors_header(file))
    return None if any("vision" in name or "visual" in name for name in names) else "weights of an encoder"


def _has_encoder(model: InstalledModel) -> bool:
    config = read_json(model.path, "config.json", keys=("vision_config",)) or {}
    return isinstance(config.get("vision_config"), dict)
