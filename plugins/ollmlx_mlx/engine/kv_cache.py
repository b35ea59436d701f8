"""Operations on a model's key-value caches as a list, one cache per layer: make, copy, trim, merge, extract.

The cache classes are mlx-lm's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import KVCache, QuantizedKVCache, make_prompt_cache, trim_prompt_cache

Layers = list[Any]

_BITS: Final = {"q8_0": 8, "q4_0": 4}


def make_layers(model: Any, kv_cache_type: str = "auto") -> Layers:
    """Return an empty cache, with quantised key-value layers if `kv_cache_type` says so and the head size allows it."""
    layers: Layers = list(make_prompt_cache(model))
    bits, group = _BITS.get(kv_cache_type), _group_size(model)
    if bits is None or group is None:
        return layers
    return [c.to_quantized(group_size=group, bits=bits) if type(c) is KVCache else c for c in layers]


def usable_type(model: Any, wanted: str) -> tuple[str, str]:
    """Return the type of cache that works with this model, and why it is not the wanted one (else empty)."""
    if wanted not in _BITS:
        return wanted, ""
    layers = make_layers(model, wanted)
    if not any(isinstance(layer, QuantizedKVCache) for layer in layers):
        return "auto", "it has no layer that can be quantized"
    try:
        # MLX checks shapes and support when a call is built: nothing is computed.
        model(mx.zeros((1, 2), dtype=mx.int32), cache=layers)
    except Exception as error:  # noqa: BLE001 - any failure means: not with this architecture
        return "auto", " ".join(str(error).split())[:200]
    return wanted, ""


def _group_size(model: Any) -> int | None:
    arguments = getattr(model, "args", None)
    size = getattr(arguments, "head_dim", None)
    if not size:
        width, heads = getattr(arguments, "hidden_size", 0), getattr(arguments, "num_attention_heads", 0)
        size = width // heads if width and heads else 0
    return next((group for group in (64, 32) if size and size % group == 0), None)


def can_batch(layers: Layers) -> bool:
    """Return whether several sequences of this cache can be computed as one."""
    return all(hasattr(layer, "merge") for layer in layers)


def can_pad(layers: Layers) -> bool:
    """Return whether sequences of different lengths can be computed together, the shorter ones padded at their end."""
    return all(type(layer) is KVCache for layer in layers)


def can_trim(layers: Layers) -> bool:
    """Return whether the newest tokens can be removed."""
    return all(layer.is_trimmable() for layer in layers)


def stays_trimmable(layers: Layers) -> bool:
    """Return whether tokens can be removed at any length. False for recurrent states and for sliding windows."""
    return all(isinstance(layer, (KVCache, QuantizedKVCache)) for layer in layers)


def size_of(layers: Layers) -> int:
    return sum(layer.nbytes for layer in layers)


def clone(layers: Layers, drop: int = 0) -> Layers:
    """Return an independent copy without the newest `drop` tokens. Arrays are shared until one side writes."""
    copied: Layers = copy.deepcopy(layers)
    shorten(copied, drop)
    return copied


def shorten(layers: Layers, drop: int) -> None:
    """Remove the newest `drop` tokens, in place."""
    if drop:
        trim_prompt_cache(layers, drop)


def compact(layers: Layers) -> Layers:
    """Cut the unused room at the end of the buffers, in place, and evaluate them. Returns the same cache."""
    for layer in layers:
        kind = type(layer)
        if kind not in (KVCache, QuantizedKVCache) or layer.keys is None:
            continue
        # A quantised layer's keys are three arrays: the numbers, their scales, their biases.
        layer.keys, layer.values = tree_map(partial(_first, layer.offset), (layer.keys, layer.values))
    mx.eval([layer.state for layer in layers])
    return layers


def _first(tokens: int, array: mx.array) -> mx.array:
    return mx.contiguous(array[..., :tokens, :]) if tokens < array.shape[2] else array


def merge(sequences: Sequence[Layers]) -> Layers:
    """Return one batched cache of several single ones, in order."""
    return [first.merge([layers[index] for layers in sequences]) for index, first in enumerate(sequences[0])]


@contextmanager
def padded_end(batch: Layers, lengths: Sequence[int], width: int) -> Iterator[None]:
    """Return a context for a model call with `width` tokens a row, of which only `lengths` count. Needs `can_pad`."""
    padding = [width - length for length in lengths]
    padded = batch if any(padding) else []
    for layer in padded:
        layer.prepare(right_padding=padding)
    yield
    for layer in padded:
        layer.finalize()


def extract_row(batch: Layers, row: int) -> Layers:
    """Return one row of a batched cache as a single cache, evaluated."""
    layers = [layer.extract(row) for layer in batch]
    mx.eval([layer.state for layer in layers])
    return layers
