"""The memory a model will need, from its configuration and the sizes of its weights. Pure: nothing is loaded.

Cache sizes are numbers of values, estimates are bytes. Where a configuration leaves a number out, the larger one is
assumed: an estimate may be too high, never too low.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ollmlx.types import MemoryEstimate
from ollmlx_mlx.daemon.machine import Device
from ollmlx_mlx.folder import AUTO_WIDTH, WeightSizes

MIB: Final = 1024 * 1024
PROCESS: Final = {"cpu": 320 * MIB, "metal": 400 * MIB, "cuda": 700 * MIB}
"""The interpreter with mlx-lm and its tokenizer library, measured on CPU; on CUDA also its context."""
SLACK: Final = 1.05
FLOAT32_SHARE: Final = 0.4
"""Share of the memory budget that one model's unpacked weights may take."""
CHUNK: Final = {"cpu": 256, "metal": 2048, "cuda": 2048}
"""Prompt tokens that are computed at once, at most."""
POOL_TOKENS: Final = 32768
"""Tokens of the pool that sequences shorter than this share. A longer context is a pool of its own."""
POOL_SHARE: Final = 0.5
"""Share of the memory budget within which a stated width gets a pool for as many whole contexts."""
QUERIES: Final = 512
"""Tokens of a long text whose attention an encoder computes at once."""
_ACTIVATIONS: Final = 12
STEP: Final = 256
"""mlx-lm's caches grow in steps of this many tokens."""
MAX_LAYERS: Final = 4096
_LARGEST: Final = 1 << 40
_FULL: Final = ("full_attention", "attention", "full", "global", "*", "hybrid")
_SLIDING: Final = ("sliding_attention", "sliding", "local", "chunked_attention", "swa")
_NOTHING: Final = ("-", "mlp", "moe", "e")
_STATE_ONLY: Final = ("mamba", "mamba2", "falcon_mamba", "rwkv7")
_PATTERNS: Final = {"olmo3": 4}
"""`sliding_window_pattern` of model types that have no such key."""

Form = Literal["float32", "packed", "stored"]
"""The form of weights in memory: unpacked, quantised with float32 scales (both Linux CPU), or as on disk."""


@dataclass(frozen=True)
class CacheShape:
    """The values that a sequence keeps in its cache.

    `per_token`: for every token; `windowed`: for each of the last `window` tokens; `fixed`: once (convolution and
    state-space layers).
    """

    per_token: int
    windowed: int = 0
    window: int = 0
    fixed: int = 0

    def values(self, tokens: int) -> int:
        """Return the values of one sequence of this many tokens, rounded up as the caches do."""
        whole = -(-tokens // STEP) * STEP
        return self.per_token * whole + self.windowed * min(whole, self.window or whole) + self.fixed


@dataclass(frozen=True)
class ModelFacts:
    """The facts about one model on one device from which memory is estimated."""

    device: Device
    form: Form
    sizes: WeightSizes
    cache: CacheShape
    config: Mapping[str, Any]
    latents: bool = False
    """True when attention caches latent vectors, which cannot be divided by heads."""
    kv_cache_type: str = "auto"
    encoder: bool = False
    """True for a model that reads a whole text at once, without a cache."""
    why: str = ""
    """The reason for the form of the weights, for people."""


def choose_form(device: Device, sizes: WeightSizes, wish: str, budget: int) -> tuple[Form, str]:
    """Return the form of the weights and the reason, for people. It does not change between two loads."""
    if device != "cpu":
        return "stored", f"weights as they are stored, on {device}"
    if not sizes.quantized:
        return "float32", "weights in float32: half precision is emulated on this CPU back end"
    if wish == "quantized":
        return "packed", "weights stay quantized, because of [plugins.mlx] weights"
    if wish == "float32":
        return "float32", "weights unpacked to float32, because of [plugins.mlx] weights"
    if sizes.float32 <= budget * FLOAT32_SHARE:
        return "float32", "weights unpacked to float32, which is faster on CPU"
    most = f"{FLOAT32_SHARE:.0%} of the memory budget"
    return "packed", f"weights stay quantized: in float32 they would take more than {most}"


def estimate(facts: ModelFacts, context: int, parallel: int, budget: int = 0) -> MemoryEstimate:
    """Return the bytes for a context length in tokens and a batch width (0: automatic) within a memory budget."""
    return _estimate(facts, context, parallel, pool_tokens(facts, context, parallel, budget))


def pool_tokens(facts: ModelFacts, context: int, parallel: int, budget: int) -> int:
    """Return the tokens that all sequences share: at least one whole context.

    With an automatic width it is enough for 16 short ones, where the budget has room for that. A stated width gets as
    many whole contexts as fit a share of the budget.
    """
    least = max(context, min(context * (parallel or AUTO_WIDTH), POOL_TOKENS))
    if not facts.cache.per_token:
        return least
    share = POOL_SHARE if parallel else 1.0
    left = budget * share - _estimate(facts, context, parallel, 0).total
    room = int(left / (facts.cache.per_token * bytes_per_value(facts)))
    return max(least, min(context * parallel, room)) if parallel else max(context, min(least, room))


def _estimate(facts: ModelFacts, context: int, parallel: int, pool: int) -> MemoryEstimate:
    weights = {"float32": facts.sizes.float32, "packed": facts.sizes.packed, "stored": facts.sizes.stored}[facts.form]
    if facts.encoder:
        work = _encoder_work(facts, context)
        return MemoryEstimate(weights=int(weights * SLACK), kv_cache=0, overhead=PROCESS[facts.device] + work)
    value, width, cache = bytes_per_value(facts), parallel or AUTO_WIDTH, facts.cache
    # Each sequence has up to a step of room that it does not use yet.
    values = cache.per_token * (pool + width * STEP) + cache.fixed * width
    values += cache.windowed * min(pool, width * (cache.window or context))
    # A cache grows by copying: for a moment there are two copies of one layer.
    growth = cache.values(context) // max(1, _text_number(facts.config, "num_hidden_layers"))
    return MemoryEstimate(
        weights=int(weights * SLACK),
        kv_cache=int((values + growth) * value),
        overhead=PROCESS[facts.device] + _activations(facts, width),
        kv_per_token=int(cache.per_token * value),
    )


def embedding_bytes(facts: ModelFacts) -> int:
    """Return the bytes of the embedding and of the head, unless they are one. Too many where they are quantised."""
    value = 2 if facts.form == "stored" else 4
    matrices = 1 if facts.config.get("tie_word_embeddings") else 2
    size = matrices * _text_number(facts.config, "vocab_size") * _text_number(facts.config, "hidden_size") * value
    return int(size * SLACK)


def bytes_per_value(facts: ModelFacts) -> float:
    """Return the bytes of one cached key or value. Quantised ones have two scales for each group of 64."""
    plain = 2 if facts.form == "stored" else 4
    if facts.kv_cache_type in ("q8_0", "q4_0"):
        return (1.0 if facts.kv_cache_type == "q8_0" else 0.5) + 2 * plain / 64
    return plain


def _activations(facts: ModelFacts, width: int) -> int:
    """Return the bytes of the intermediate results of one chunk, and of the logits with room for sampling."""
    value = 2 if facts.form == "stored" else 4
    hidden = _text_number(facts.config, "hidden_size") or 1024
    inner = max(_text_number(facts.config, "intermediate_size"), hidden)
    vocabulary = _text_number(facts.config, "vocab_size") or 32000
    return CHUNK[facts.device] * (_ACTIVATIONS * hidden + 3 * inner) * value + width * vocabulary * 4 * 4


def _encoder_work(facts: ModelFacts, context: int) -> int:
    """Return the bytes of the intermediate results of two batches, and of the scores of one piece of a long text."""
    value = 2 if facts.form == "stored" else 4
    hidden = _number(facts.config, "hidden_size", "n_embd") or 1024
    inner = max(_number(facts.config, "intermediate_size", "n_inner"), 4 * hidden)
    heads = _number(facts.config, "num_attention_heads", "n_head") or 16
    tokens = max(CHUNK[facts.device] * 8, context)
    return (tokens * (_ACTIVATIONS * hidden + 3 * inner) + 3 * heads * QUERIES * context) * value


def _text_number(config: Mapping[str, Any], name: str) -> int:
    """Return this number of the language model in a configuration, or 0."""
    text = config.get("text_config")
    return (_number(text, name) if isinstance(text, dict) else 0) or _number(config, name)


def cache_shape(shape: Mapping[str, Any], *, rotates: bool, latents: bool) -> CacheShape:
    """Return the shape of a model's cache from its configuration.

    `rotates`: sliding layers keep only the window; `latents`: latent attention caches the latent vector.
    """
    layers = min(MAX_LAYERS, _number(shape, "num_hidden_layers", "n_layer", "n_layers", "num_layers"))
    kinds = layer_kinds(shape, layers, rotates=rotates)
    attention = _attention_values(shape, latents=latents)
    window = _number(shape, "sliding_window", "sliding_window_size", "attention_chunk_size")
    sliding = sum(kind == "sliding" for kind in kinds) if window else 0
    full = sum(kind in ("full", "sliding", "both") for kind in kinds) - sliding
    states = sum(kind in ("state", "both") for kind in kinds)
    return CacheShape(
        per_token=attention * full,
        windowed=attention * sliding,
        window=-(-window // STEP) * STEP if window else 0,
        fixed=states * _state_values(shape) if states else 0,
    )


def layer_kinds(shape: Mapping[str, Any], layers: int, *, rotates: bool) -> list[str]:
    """Return `full`, `sliding`, `state`, `both` or `none` for each layer."""
    kind = shape.get("model_type")
    if kind in _STATE_ONLY or not _number(shape, "num_attention_heads", "n_head", "n_heads", "num_heads"):
        return ["state"] * layers
    if kind == "falcon_h1":
        return ["both"] * layers
    for key in ("layer_types", "layers_block_type", "block_types", "hybrid_override_pattern"):
        listed = shape.get(key)
        if isinstance(listed, list | str) and listed:
            return [_kind(name, rotates=rotates) for name in listed[:layers]]
    interval = _number(shape, "full_attention_interval")
    if interval:
        return ["full" if (index + 1) % interval == 0 else "state" for index in range(layers)]
    period = _number(shape, "attn_layer_period")
    if period:
        offset = _number(shape, "attn_layer_offset")
        return ["full" if index % period == offset else "state" for index in range(layers)]
    chosen = shape.get("full_attn_idxs")
    if isinstance(chosen, list):
        return ["full" if index in chosen else "state" for index in range(layers)]
    pattern = _number(shape, "sliding_window_pattern") or _PATTERNS.get(str(kind), 0)
    if rotates and pattern:
        return ["full" if (index + 1) % pattern == 0 else "sliding" for index in range(layers)]
    if rotates and kind == "gpt_oss":
        return ["full" if index % 2 else "sliding" for index in range(layers)]
    return ["full"] * layers


def _kind(name: object, *, rotates: bool) -> str:
    word = str(name).lower()
    if word in _FULL:
        return "full"
    if word in _SLIDING:
        return "sliding" if rotates else "full"
    return "none" if word in _NOTHING else "state"


def _attention_values(shape: Mapping[str, Any], *, latents: bool) -> int:
    """Return the keys and values of one token in one attention layer."""
    heads = _number(shape, "num_attention_heads", "n_head", "n_heads", "num_heads")
    rank = _number(shape, "kv_lora_rank")
    rope = _number(shape, "qk_rope_head_dim")
    if rank and latents:
        return rank + rope
    if rank:
        return heads * (rope + _number(shape, "qk_nope_head_dim") + _number(shape, "v_head_dim"))
    hidden = _number(shape, "hidden_size", "n_embd", "d_model", "dim")
    head_dim = max(_number(shape, "head_dim"), _number(shape, "global_head_dim"))
    groups = _number(shape, "num_key_value_heads", "num_kv_heads", "n_kv_heads")
    return 2 * (groups or heads) * (head_dim or (hidden // heads if heads else 0))


def _state_values(shape: Mapping[str, Any]) -> int:
    """Return an upper bound for one convolution or state-space layer. Each model family names its sizes differently."""
    hidden = _number(shape, "hidden_size", "n_embd", "d_model")
    value_heads = _number(shape, "linear_num_value_heads")
    if value_heads:
        keys = _number(shape, "linear_key_head_dim")
        width = _number(shape, "linear_num_key_heads") * keys * 2 + value_heads * _number(
            shape, "linear_value_head_dim"
        )
        state = value_heads * keys * _number(shape, "linear_value_head_dim")
        return state + width * _number(shape, "linear_conv_kernel_dim")
    if "conv_L_cache" in shape:
        return hidden * _number(shape, "conv_L_cache")
    expand = _number(shape, "mamba_expand", "expand") or 2
    inner = _number(shape, "mamba_d_ssm", "mamba_intermediate", "d_inner") or hidden * expand
    if _number(shape, "mamba_n_heads", "mamba_num_heads", "num_heads"):
        heads = _number(shape, "mamba_n_heads", "mamba_num_heads", "num_heads")
        inner = max(inner, heads * _number(shape, "mamba_d_head", "mamba_head_dim", "head_dim"))
    state = _number(shape, "mamba_d_state", "ssm_state_size", "state_size") or 128
    groups = _number(shape, "mamba_n_groups", "n_groups") or 1
    kernel = _number(shape, "mamba_d_conv", "conv_kernel") or 4
    return inner * state + (inner + 2 * groups * state) * kernel


def _number(shape: Mapping[str, Any], *names: str) -> int:
    """Return the first of these values that is a plausible whole number, else 0."""
    for name in names:
        value = shape.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST:
            return value
    return 0
