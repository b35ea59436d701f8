"""Which model types the installed mlx-lm serves, and how, read from its source files without importing them."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

MODEL_TYPE: Final = re.compile(r"[A-Za-z0-9_\-]{1,64}")
"""What may become part of a module's name; membership is checked as well."""
_MAX_SOURCE: Final = 4 << 20


def installed_mlx_lm() -> Path | None:
    """The folder of the installed mlx-lm, or None. Imports nothing."""
    spec = find_spec("mlx_lm")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


class KnownModels:
    """The model types of one mlx-lm."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._remapping = _remapping(folder / "utils.py")

    def module(self, model_type: str) -> Path | None:
        """The source file that serves a `model_type`, or None when mlx-lm does not know it."""
        if not MODEL_TYPE.fullmatch(model_type):
            return None
        path = self._folder / "models" / f"{self._remapping.get(model_type, model_type)}.py"
        return path if "class ModelArgs" in _source(path) else None

    def rotates(self, model_type: str) -> bool:
        """Whether its sliding-window layers keep no more than the window."""
        return "RotatingKVCache" in self._text(model_type)

    def keeps_latents(self, model_type: str) -> bool:
        """Whether multi-head latent attention caches the latent vector and not the keys it unfolds to."""
        return "kv_latent" in self._text(model_type)

    def _text(self, model_type: str) -> str:
        path = self.module(model_type)
        return _source(path) if path else ""


@lru_cache(maxsize=512)
def _source(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_SOURCE:
            return ""
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _remapping(file: Path) -> dict[str, str]:
    """mlx-lm's table of model types that another type's module serves."""
    source = _source(file)
    if not source:
        return {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "MODEL_REMAPPING" for target in node.targets
        ):
            table: Any = ast.literal_eval(node.value)
            return {str(name): str(module) for name, module in table.items()}
    return {}
