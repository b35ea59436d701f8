"""The backend for models that see, in the daemon: which ones it runs, and the command of their runners.

Imports neither mlx nor mlx-vlm.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Final

from ollmlx import Refusal, RunnerCommand
from ollmlx.storekit import read_json, require_json
from ollmlx.types import InstalledModel, MemoryEstimate
from ollmlx_mlx.daemon.backend import MlxBackend
from ollmlx_mlx_vlm.families import FAMILIES, REFUSED

ENGINE: Final = "ollmlx_mlx_vlm.engine.engine:MlxVlmEngine"
MISSING: Final = "ENV025"
INSTALL: Final = "pip install 'ollmlx[vision]'"
OTHERS: Final = f"families whose pictures are read: {', '.join(FAMILIES)}; llama.cpp reads pictures with GGUF files"
LARGEST_PICTURE: Final = 4096 * 4096
"""Pixels of the largest picture that a runner gets."""


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
        if "ollmlx.layers" in model.info:
            return Refusal(reason="it reads no pictures with a model in Ollama's own layout", code="MDL005")
        return super().accepts(model)

    def sees(self, model: InstalledModel) -> bool:
        """Return whether it answers pictures with this model."""
        return self.accepts(model) is None

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        """Return the bytes as for text, and the work space of the encoder for the largest picture that it looks at."""
        need = super().estimate(model, context, parallel)
        work = _work_space(model.path, 4 if self.machine.device == "cpu" else 2)
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


def _work_space(folder: Path, width: int) -> int:
    """Return the bytes of the intermediate results for one picture, with numbers of so many bytes."""
    eyes = require_json(folder, "config.json").get("vision_config") or {}
    prepares = read_json(folder, "preprocessor_config.json", keys=("max_pixels", "size", "max_image_size")) or {}
    patch = _number(eyes, "patch_size") or 14
    hidden = _number(eyes, "embed_dim") or _number(eyes, "hidden_size") or 1152
    inner = _number(eyes, "intermediate_size") or 4 * hidden
    pixels, parts = _number(prepares, "max_pixels") or (_number(eyes, "image_size") or 384) ** 2, 1
    tile, whole = (_number(prepares.get(name), "longest_edge") for name in ("max_image_size", "size"))
    if tile and whole:  # the picture is divided, and looked at as a whole, too
        parts = (whole // tile) ** 2 + 1
    return parts * min(pixels, LARGEST_PICTURE) // patch**2 * (inner + 6 * hidden) * width


def _number(found: Any, name: str) -> int:
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31 else 0


def _has_encoder(model: InstalledModel) -> bool:
    config = read_json(model.path, "config.json", keys=("vision_config",)) or {}
    return isinstance(config.get("vision_config"), dict)
