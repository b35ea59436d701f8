"""The memory a model will need, before anything of it is loaded. Pure arithmetic over small facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ollmlx.types import MemoryEstimate
from ollmlx_mlx.daemon.machine import Device
from ollmlx_mlx.daemon.shape import CacheShape
from ollmlx_mlx.daemon.weight_sizes import WeightSizes

MIB: Final = 1024 * 1024
PROCESS: Final = {"cpu": 320 * MIB, "metal": 400 * MIB, "cuda": 700 * MIB}
"""The interpreter with mlx-lm and its tokenizer library, measured on CPU; on CUDA also its context."""
SLACK: Final = 1.05
CHUNK: Final = {"cpu": 256, "metal": 2048, "cuda": 2048}
"""Prompt tokens that are computed at once, at most."""
AUTO_WIDTH: Final = 16
"""Sequences assumed to run at once when the width is automatic..."""
AUTO_CONTEXT: Final = 2048
"""...of which all but the first are assumed to be this long at most."""
_ACTIVATIONS: Final = 12

Form = Literal["float32", "packed", "stored"]
"""How the weights lie in memory: unpacked, quantised with float32 scales (both Linux CPU), or as on disk."""


@dataclass(frozen=True)
class Facts:
    """What the arithmetic needs of one model on one device."""

    device: Device
    form: Form
    sizes: WeightSizes
    cache: CacheShape
    config: Mapping[str, Any]
    kv_cache_type: str = "auto"
    why: str = ""
    """Why the weights take this form, for people."""


def choose_form(device: Device, sizes: WeightSizes, wish: str, budget: int, share: float) -> tuple[Form, str]:
    """The form of the weights and the reason, for people. Depends on nothing that changes between two loads."""
    if device != "cpu":
        return "stored", f"weights as they are stored, on {device}"
    if not sizes.quantized:
        return "float32", "weights in float32: half precision is emulated on this CPU back end"
    if wish == "quantized":
        return "packed", "weights stay quantized: [plugins.mlx] weights says so"
    if wish == "float32":
        return "float32", "weights unpacked to float32: [plugins.mlx] weights says so"
    if sizes.float32 <= budget * share:
        return "float32", "weights unpacked to float32, which is faster on CPU"
    return "packed", f"weights stay quantized: in float32 they would take more than {share:.0%} of the memory budget"


def estimate(facts: Facts, context: int, parallel: int) -> MemoryEstimate:
    """Bytes for a context length in tokens and a batch width (0: automatic)."""
    weights = {"float32": facts.sizes.float32, "packed": facts.sizes.packed, "stored": facts.sizes.stored}[facts.form]
    value = bytes_per_value(facts)
    one = facts.cache.values(context)
    short = facts.cache.values(min(context, AUTO_CONTEXT))
    values = one * parallel if parallel else one + short * (AUTO_WIDTH - 1)
    # A cache grows by copying: the old and the new copy of one layer are there together.
    growth = one // max(1, _number(facts.config, "num_hidden_layers"))
    return MemoryEstimate(
        weights=int(weights * SLACK),
        kv_cache=int((values + growth) * value),
        overhead=PROCESS[facts.device] + _activations(facts, parallel or AUTO_WIDTH),
        kv_per_token=int(facts.cache.per_token * value),
    )


def share(facts: Facts, context: int, ranks: int, here: int, *, split_cache: bool) -> MemoryEstimate:
    """Bytes on this machine when `here` of `ranks` ranks run on it: each holds its part, and the embeddings whole.

    One sequence runs at a time. `split_cache`: whether each rank keeps only a part of the cache.
    """
    alone = estimate(facts, context, 1)
    whole = min(alone.weights, _embeddings(facts))
    parts = ranks if split_cache else 1
    return MemoryEstimate(
        weights=here * (whole + (alone.weights - whole) // ranks),
        kv_cache=here * alone.kv_cache // parts,
        overhead=here * alone.overhead,
        kv_per_token=here * alone.kv_per_token // parts,
    )


def _embeddings(facts: Facts) -> int:
    """Bytes of the embedding and, unless they are one, of the head; on the safe side where they are quantised."""
    value = 2 if facts.form == "stored" else 4
    matrices = 1 if facts.config.get("tie_word_embeddings") else 2
    size = matrices * _number(facts.config, "vocab_size") * _number(facts.config, "hidden_size") * value
    return int(size * SLACK)


def bytes_per_value(facts: Facts) -> float:
    """Bytes that one cached key or value takes: quantised ones carry two scales for each group of 64."""
    plain = 2 if facts.form == "stored" else 4
    if facts.kv_cache_type in ("q8_0", "q4_0"):
        return (1.0 if facts.kv_cache_type == "q8_0" else 0.5) + 2 * plain / 64
    return plain


def _activations(facts: Facts, width: int) -> int:
    """Intermediate results of one chunk of a prompt, and the logits of every sequence (with room for sampling)."""
    value = 2 if facts.form == "stored" else 4
    hidden = _number(facts.config, "hidden_size") or 1024
    inner = max(_number(facts.config, "intermediate_size"), hidden)
    vocabulary = _number(facts.config, "vocab_size") or 32000
    return CHUNK[facts.device] * (_ACTIVATIONS * hidden + 3 * inner) * value + width * vocabulary * 4 * 4


def _number(config: Mapping[str, Any], name: str) -> int:
    text = config.get("text_config")
    value = (text.get(name) if isinstance(text, dict) else None) or config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40 else 0
