"""The memory that pictures need besides the language model's: the encoder's work, and the vectors that are kept.

Imports no mlx: the daemon estimates with it, and the child keeps to its limits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ollmlx.storekit import read_json, require_json

LARGEST_PICTURE: Final = 4096 * 4096
"""Pixels of the largest picture that a runner gets."""
PATCHES_ON_CPU: Final = 4096
"""Patches of the largest picture that an encoder looks at on a CPU, where attention keeps a number for each pair."""
KEPT: Final = 16
KEPT_PLACES: Final = 8192
"""Pictures that are remembered with their vectors, for prompts that begin otherwise, and their vectors, at most."""
_AREA: Final = 1 << 15
"""A longest edge above it is a number of pixels in all."""
_LIMITS: Final = (
    "max_pixels", "size", "max_image_size", "max_patches", "max_tiles", "tile_size", "in_token_limit", "media_proc_cfg",
    "image_grid_pinpoints", "image_processor", "max_soft_tokens", "pooling_kernel_size",
)  # fmt: skip


def work_space(folder: Path, width: int, *, on_cpu: bool) -> int:
    """Return the bytes for the largest picture that a model looks at, with numbers of so many bytes."""
    config = require_json(folder, "config.json")
    found = config.get("vision_config")
    eyes: dict[str, Any] = found if isinstance(found, dict) else {}
    patch = patch_size(config)
    hidden = _number(eyes, "embed_dim", "hidden_size", "width") or 1152
    inner = _number(eyes, "intermediate_size") or 4 * hidden
    heads = _number(eyes, "num_attention_heads", "num_heads") or 16
    pixels, parts = _largest(config, eyes, _prepares(folder), patch)
    patches = min(pixels, LARGEST_PICTURE) // patch**2
    scores = 0
    if on_cpu:
        patches = min(patches, PATCHES_ON_CPU)
        scores = heads * patches**2
    text = config.get("text_config")
    deep = eyes.get("deepstack_visual_indexes")
    layers = 1 + (len(deep) if isinstance(deep, list) else 0)
    vectors = KEPT_PLACES * layers * (_number(text, "hidden_size") or _number(config, "hidden_size") or 4096)
    return (parts * (patches * (inner + 6 * hidden) + scores) + vectors) * width


def patch_size(config: Any) -> int:
    """Return the edge of a patch in pixels."""
    return _number(config.get("vision_config"), "patch_size") or 14


def _prepares(folder: Path) -> dict[str, Any]:
    """Return how a model's pictures are prepared, by the file in which its library writes it."""
    own = read_json(folder, "preprocessor_config.json", keys=_LIMITS) or {}
    inner = (read_json(folder, "processor_config.json", keys=_LIMITS) or {}).get("image_processor")
    return {**own, **(inner if isinstance(inner, dict) else {})}


def _largest(config: Any, eyes: dict[str, Any], prepares: dict[str, Any], patch: int) -> tuple[int, int]:
    """Return the pixels of the largest part of a picture that is looked at at once, and the number of parts."""
    edge = _number(prepares.get("size"), "longest_edge")
    limit = _number(prepares, "in_token_limit") or _number(prepares.get("media_proc_cfg"), "in_patch_limit")
    soft = _number(prepares, "max_soft_tokens") * (_number(prepares, "pooling_kernel_size") or 3) ** 2
    square = (_number(prepares, "tile_size") or _number(eyes, "image_size") or 384) ** 2
    pixels = _number(prepares, "max_pixels") or (edge if edge > _AREA else 0) or (limit or soft) * patch**2 or square
    tile = _number(prepares.get("max_image_size"), "longest_edge")
    shapes = prepares.get("image_grid_pinpoints")
    tiles = [
        (edge // tile) ** 2 if tile else 0,
        _number(prepares, "max_patches", "max_tiles"),
        _number(config, "max_dynamic_patch"),
        *(shape[0] * shape[1] // square for shape in (shapes if isinstance(shapes, list) else ()) if _is_shape(shape)),
    ]
    return pixels, max(tiles) + 1  # the whole is looked at, too


def _is_shape(found: Any) -> bool:
    return (
        isinstance(found, list) and len(found) == 2 and all(isinstance(one, int) and 0 < one < _AREA for one in found)
    )


def _number(found: Any, *names: str) -> int:
    """Return the first of these values that is a plausible whole number, else 0."""
    values = (found.get(name) for name in names) if isinstance(found, dict) else ()
    sane = (value for value in values if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31)
    return next(sane, 0)
