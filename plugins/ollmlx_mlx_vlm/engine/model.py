"""mlx-vlm's model of a folder, in the form that the text engine computes with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import ChunkedKVCache, KVCache, RotatingKVCache
from mlx_lm.utils import load_config
from mlx_vlm import utils

from ollmlx.errors import Unsupported
from ollmlx.protocol import RunnerConfig
from ollmlx_mlx.engine.kv_cache import Layers
from ollmlx_mlx.engine.stored_names import allow_open_files, mlx_names

_CACHES: Final[Mapping[str, Callable[[Any], Any]]] = {
    "ArraysCache": lambda layer: layer,
    "ChunkedKVCache": lambda layer: ChunkedKVCache(layer.chunk_size),
    "KVCache": lambda _: KVCache(),
    "RotatingKVCache": lambda layer: RotatingKVCache(max_size=layer.max_size, keep=layer.keep),
}
"""mlx-lm's cache for each of mlx-vlm's: the text engine merges and extracts mlx-lm's."""


class SeeingModel(Module):
    """A language model with its eyes. Called like one of mlx-lm's models, it reads text.

    `multiaxial`: its positions have three axes, so that after a picture they are not the numbers of tokens.
    """

    def __init__(self, whole: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.whole = whole
        self.multiaxial = hasattr(whole.language_model, "get_rope_index")

    @property
    def layers(self) -> Any:
        return self.whole.language_model.layers

    @property
    def args(self) -> Any:
        """The shape of the language model."""
        return self.whole.config.text_config

    def make_cache(self) -> Layers:
        """Return an empty cache. Raises Unsupported for a kind that the engine does not know."""
        language = self.whole.language_model
        if not hasattr(language, "make_cache"):
            return [KVCache() for _ in language.layers]
        layers = language.make_cache()
        kinds = [type(layer).__name__ for layer in layers]
        if unknown := {*kinds} - {*_CACHES}:
            raise Unsupported(f"caches of the kind {unknown.pop()} are not known here", code="MDL004")
        return [_CACHES[kind](layer) for kind, layer in zip(kinds, layers, strict=True)]

    def __call__(self, inputs: mx.array, cache: Layers | None = None, **more: Any) -> mx.array:
        """Return the logits. `more`: what stands for the inputs, or goes with them, where pictures are among them."""
        if self.multiaxial and "position_ids" not in more:
            more["position_ids"] = _positions(inputs, cache)
        logits: mx.array = self.whole.language_model(inputs, cache=cache, **more).logits
        return logits


def _positions(inputs: mx.array, cache: Layers | None) -> mx.array:
    """Return the positions of text: the numbers of its tokens on all three axes."""
    rows, count = inputs.shape
    counted = (layer.offset for layer in cache or () if hasattr(layer, "offset"))
    start = mx.array(next(counted, 0)).reshape(-1, 1)
    return mx.broadcast_to((start + mx.arange(count))[None], (3, rows, count))


def read_seeing(folder: Path, *, trust: bool = False) -> Any:
    """Return mlx-vlm's model of a folder, whose weights are not read yet, by the names of Ollama's layers, too."""
    allow_open_files(folder)
    load_file = utils._load_safetensors
    utils._load_safetensors = lambda path: mlx_names(load_file(path))  # mlx-vlm has no place to name weights
    try:
        return utils.load_model(folder, lazy=True, trust_remote_code=trust)
    finally:
        utils._load_safetensors = load_file


def read_model(config: RunnerConfig) -> tuple[Module, dict[str, Any]]:
    """Return the model of a folder, whose weights are not read yet, and its configuration."""
    folder = config.model.path
    settings: dict[str, Any] = load_config(folder)
    return SeeingModel(read_seeing(folder, trust=config.allow_remote_code)), settings
