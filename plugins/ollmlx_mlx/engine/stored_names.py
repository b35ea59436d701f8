"""The names of tensors in a model's files, turned into those that mlx-lm's classes read.

Ollama's own models name the parts of quantised weights otherwise, and keep a layer's experts in one tensor.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

import mlx.core as mx

from ollmlx import mlx_tensor_name
from ollmlx_mlx.folder import WEIGHTS

_SPARE_FILES: Final = 256
_LAYERS: Final = {"mlp": "switch_mlp", "feed_forward": "experts"}
"""Names of layers for experts, by the block that they are in; Llama 4 calls that `feed_forward`."""
_EXPERTS: Final = re.compile(r"(.*)\.experts\.(gate_up|gate|up|down)_proj\.(weight|scales|biases)")


def mlx_names(weights: dict[str, mx.array], own: Container[str] = ()) -> dict[str, mx.array]:
    """Return weights by the names that mlx-lm's classes read. Those of other folders than Ollama's are unchanged.

    `own`: the names of the model's parameters: a few classes call their layer for experts `experts` themselves.
    """
    named = {mlx_tensor_name(name, weights): array for name, array in weights.items()}
    return {name: part for stored, array in named.items() for name, part in _parts(stored, array, own)}


def _parts(name: str, array: mx.array, own: Container[str]) -> list[tuple[str, mx.array]]:
    """Return a tensor by its name, and the experts of a layer by those of mlx-lm's layers for experts."""
    found = _EXPERTS.fullmatch(name)
    if found is None or array.ndim != 3:
        return [(name, array)]
    block, part, last = found.groups()
    inner = _LAYERS.get(block.rpartition(".")[2], "experts.switch_glu")
    if f"{block}.experts.down_proj.weight" in own:
        inner = "experts"
    if part != "gate_up":
        return [(f"{block}.{inner}.{part}_proj.{last}", array)]
    half = array.shape[1] // 2
    return [
        (f"{block}.{inner}.gate_proj.{last}", array[:, :half]),
        (f"{block}.{inner}.up_proj.{last}", array[:, half:]),
    ]


def allow_open_files(folder: Path) -> None:
    """Raise this process's limit of open files where the folder has more: each is open until its tensors are read."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = len(list(folder.glob(WEIGHTS))) + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # the system has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))
