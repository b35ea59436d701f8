"""The model types that the installed mlx-lm serves, read from its source files without importing them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, Final

MODEL_TYPE: Final = re.compile(r"[A-Za-z0-9_\-]{1,64}")
"""Model types that may become part of a module's name. That the module exists is checked as well."""
_MAX_SOURCE: Final = 4 << 20
_PARSING: Final = Lock()
"""Python 3.11 cannot parse in two threads at once: `AST constructor recursion depth mismatch`."""


def installed_mlx_lm() -> Path | None:
    """Return the folder of the installed mlx-lm, or None. Imports nothing."""
    spec = find_spec("mlx_lm")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]) if folders else None


class KnownModels:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._remapping = _remapping(folder / "utils.py")

    def module(self, model_type: str) -> Path | None:
        """Return the source file of a `model_type`, or None when mlx-lm does not know it."""
        if not MODEL_TYPE.fullmatch(model_type):
            return None
        path = self._folder / "models" / f"{self._remapping.get(model_type, model_type)}.py"
        return path if "class ModelArgs" in _source(path) else None

    def rotates(self, config: Mapping[str, Any]) -> bool:
        """Return whether the model's sliding-window layers keep no more than the window."""
        return any("RotatingKVCache" in self._text(kind) for kind in _kinds(config))

    def keeps_latents(self, config: Mapping[str, Any]) -> bool:
        """Return whether multi-head latent attention caches the latent vector, not the keys that are made from it."""
        return any("kv_latent" in self._text(kind) for kind in _kinds(config))

    def complete(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration of the language model, flat, with mlx-lm's defaults for missing values."""
        defaults: dict[str, Any] = {}
        for kind in _kinds(config):
            path = self.module(kind)
            defaults |= _defaults(path) if path else {}
        text = config.get("text_config")
        stated = {**config, **text} if isinstance(text, dict) else dict(config)
        return defaults | {key: value for key, value in stated.items() if value is not None}

    def _text(self, model_type: str) -> str:
        path = self.module(model_type)
        return _source(path) if path else ""


def _kinds(config: Mapping[str, Any]) -> list[str]:
    """Return the model's own type and, for a model with several parts, that of its language model."""
    text = config.get("text_config")
    named = [config.get("model_type"), text.get("model_type") if isinstance(text, dict) else None]
    return [kind for kind in named if isinstance(kind, str)]


@lru_cache(maxsize=512)
def _defaults(path: Path) -> dict[str, int]:
    """Return the whole numbers among the defaults of the module's `ModelArgs`."""
    found: dict[str, int] = {}
    for node in _statements(path):
        if isinstance(node, ast.ClassDef) and node.name in ("ModelArgs", "TextArgs", "TextConfig"):
            for field in node.body:
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(field.value, ast.Constant)
                    and type(field.value.value) is int
                ):
                    found[field.target.id] = field.value.value
    return found


@lru_cache(maxsize=512)
def _source(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_SOURCE:
            return ""
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


@lru_cache(maxsize=8)
def _remapping(file: Path) -> Mapping[str, str]:
    """Return mlx-lm's table of model types that another type's module serves."""
    for node in _statements(file):
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "MODEL_REMAPPING" for target in node.targets
        ):
            table: Any = ast.literal_eval(node.value)
            return {str(name): str(module) for name, module in table.items()}
    return {}


def _statements(path: Path) -> list[ast.stmt]:
    with _PARSING:
        return ast.parse(_source(path)).body
