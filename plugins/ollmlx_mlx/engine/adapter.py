"""LoRA adapters applied to a loaded model, on the compute thread.

Two kinds of files: mlx-lm's own (`adapters.safetensors`, also DoRA and full tuning) and PEFT's.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_map, tree_unflatten
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.utils import load_adapters

from ollmlx.errors import StorageError
from ollmlx.storekit import read_json

OWN: Final = "adapters.safetensors"
PEFT: Final = "adapter_model.safetensors"
_PREFIX: Final = "base_model.model."
_UNSUPPORTED: Final = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "fan_in_fan_out", "bias")


def apply_adapter(model: Module, folder: Path, *, fuse: bool) -> str:
    """Apply the adapter in `folder` to the model; `fuse` adds it to the weights. Returns a note for people.

    Raises StorageError when files are missing or do not fit the model.
    """
    config = read_json(folder, "adapter_config.json")
    if config is None:
        raise _misfit(folder, "it has no adapter_config.json")
    try:
        if (folder / OWN).is_file():
            load_adapters(model, str(folder))
        elif (folder / PEFT).is_file():
            _apply_peft(model, folder, config)
        else:
            raise _misfit(folder, f"it has no {OWN}")
    except (ValueError, KeyError, AttributeError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise _misfit(folder, " ".join(str(error).split())[:300]) from error
    model.eval()
    if fuse:
        _fuse(model)
    return f"adapter {folder.name}"


def _apply_peft(model: Module, folder: Path, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise _misfit(folder, f"adapters of the type {str(config.get('peft_type'))[:40]!r} are not supported")
    for key in _UNSUPPORTED:
        if config.get(key) not in (None, False, "none", [], {}):
            raise _misfit(folder, f"{key} is not supported")
    rank = int(config["r"])
    scale = float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    weights: Any = mx.load(str(folder / PEFT))
    modules = dict(model.named_modules())
    layers = []
    for path in sorted({name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in weights}):
        base = modules.get(path)
        if base is None:
            raise _misfit(folder, f"the model has no {path[:120]}")
        layer = LoRALinear.from_base(base, r=rank, dropout=0.0, scale=scale)
        down, up = (weights[f"{_PREFIX}{path}.lora_{part}.weight"].T for part in "AB")
        if (down.shape, up.shape) != (layer.lora_a.shape, layer.lora_b.shape):
            raise _misfit(folder, f"{path} has other sizes in the model")
        layer.lora_a, layer.lora_b = down, up
        layers.append((path, layer))
    model.update_modules(tree_unflatten(layers))


def _fuse(model: Module) -> None:
    fused: list[tuple[str, Module]] = []
    for name, module in model.named_modules():
        if type(module).__module__.startswith("mlx_lm.tuner."):
            module.update(tree_map(lambda array: array.astype(mx.float32), module.trainable_parameters()))
            fused.append((name, module.fuse()))
    if fused:
        model.update_modules(tree_unflatten(fused))


def _misfit(folder: Path, why: str) -> StorageError:
    return StorageError(
        f"the adapter {folder.name} does not fit the model: {why}",
        code="MDL007",
        hint="train one for this model with: mlx_lm.lora --train --adapter-path FOLDER",
    )
