"""From a GGUF header to `config.json`, checked against the parameters of mlx-lm's model.

Architectures: `llama` (and Mistral, which GGUF files call llama), `qwen2`, `qwen3`. Others are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.rope_utils import Llama3RoPE
from mlx_lm.utils import _get_classes

from ollmlx import GgufHeader
from ollmlx.errors import StorageError

ARCHITECTURES: Final = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
MAX_LAYERS: Final = 4096
PERMUTED: Final = ("llama",)
"""Architectures whose query and key rows have another order in GGUF files."""

_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_WHOLE: Final = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK: Final = re.compile(r"blk\.(\d{1,5})\.([a-z_]+)\.(weight|bias)")
FREQUENCIES: Final = "rope_freqs.weight"
LLAMA3_ROPE: Final = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The constants of every Llama 3.x release. GGUF files hold only the factors that follow from them."""


def check_architecture(header: GgufHeader) -> None:
    """Raise StorageError, naming the architecture, when this file cannot be imported."""
    name = header.architecture or "unnamed"
    if name not in ARCHITECTURES:
        raise StorageError(
            f"the architecture {name[:64]!r} cannot be imported from GGUF; llama (and Mistral), qwen2 and qwen3 can",
            code="MDL004",
            hint="pull an MLX version of the model, or install ollmlx[llamacpp] to run the GGUF file",
        )
    if header.own("expert_count"):
        raise StorageError(f"{name} with experts (mixture of experts) cannot be imported from GGUF", code="MDL004")


def parameter_name(tensor: str) -> tuple[str, str] | None:
    """Return module path and parameter (`weight`, `bias`) of a GGUF tensor, None when MLX has no such parameter."""
    stem, _, kind = tensor.rpartition(".")
    if stem in _WHOLE:
        return _WHOLE[stem], kind
    match = _BLOCK.fullmatch(tensor)
    if match is None or match.group(2) not in _LAYER:
        return None
    return f"model.layers.{int(match.group(1))}.{_LAYER[match.group(2)]}", match.group(3)


def permuted_heads(header: GgufHeader, tensor: str) -> int | None:
    """Return the number of heads whose rows must be put back in order in this tensor, or None."""
    if header.architecture not in PERMUTED:
        return None
    match = _BLOCK.fullmatch(tensor)
    part = match.group(2) if match else ""
    if part == "attn_q":
        return _whole(header, "attention.head_count")
    if part == "attn_k":
        return _whole(header, "attention.head_count_kv", _whole(header, "attention.head_count"))
    return None


def model_config(header: GgufHeader, *, vocabulary: int, frequencies: Sequence[float] | None = None) -> dict[str, Any]:
    """Return `config.json` without the quantisation.

    `vocabulary`: number of tokens; `frequencies`: the tensor `rope_freqs.weight`. Raises StorageError when a needed
    value is missing or cannot be expressed.
    """
    check_architecture(header)
    names = {tensor.name for tensor in header.tensors}
    heads = _whole(header, "attention.head_count")
    hidden = _whole(header, "embedding_length")
    if _whole(header, "block_count") > MAX_LAYERS:
        raise StorageError(f"it claims {_whole(header, 'block_count')} layers", code="MDL003")
    head_dim = _whole(header, "attention.key_length", _whole(header, "rope.dimension_count", hidden // heads))
    if header.own("attention.value_length", head_dim) != head_dim:
        raise StorageError("keys and values of different lengths cannot be imported", code="MDL004")
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[header.architecture]],
        "model_type": header.architecture,
        "hidden_size": hidden,
        "num_hidden_layers": _whole(header, "block_count"),
        "intermediate_size": _whole(header, "feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": _whole(header, "attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": _number(header, "attention.layer_norm_rms_epsilon", 1e-5),
        "vocab_size": vocabulary,
        "max_position_embeddings": _whole(header, "context_length"),
        "rope_theta": _number(header, "rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in names,
    }
    if header.architecture == "llama":
        config |= {"attention_bias": "blk.0.attn_q.bias" in names, "mlp_bias": "blk.0.ffn_gate.bias" in names}
    scaling = _llama3_scaling(config, frequencies) if frequencies else _scaling(header)
    return config | ({"rope_scaling": scaling} if scaling else {})


def check_tensors(header: GgufHeader, config: Mapping[str, Any]) -> None:
    """Raise StorageError unless exactly the tensors are there that the configuration asks for, in its shapes."""
    expected = _expected(config)
    found: dict[str, tuple[int, ...]] = {}
    for tensor in header.tensors:
        named = parameter_name(tensor.name)
        if named is not None:
            found[".".join(named)] = tensor.shape
        elif tensor.name != FREQUENCIES:
            raise StorageError(
                f"tensor {tensor.name[:80]!r} has no counterpart in MLX's {header.architecture}", code="MDL004"
            )
    for name, shape in expected.items():
        if name not in found:
            raise StorageError(f"the weights of {name} are missing", code="MDL003")
        if found[name] != shape:
            raise StorageError(f"{name} has the shape {found[name]}, its header says {shape}", code="MDL003")
    surplus = sorted(name for name in found if name not in expected)
    if surplus:
        raise StorageError(f"{surplus[0]} has no counterpart in MLX's {header.architecture}", code="MDL004")


def _expected(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter of mlx-lm's model. Nothing is computed."""
    try:
        kind, arguments = _get_classes(dict(config))
        parameters: Any = tree_flatten(kind(arguments.from_dict(config)).parameters())
    except Exception as error:  # a header may hold any numbers
        raise StorageError(f"its numbers do not make a model: {error}", code="MDL003") from error
    return {name: tuple(array.shape) for name, array in parameters}


def _scaling(header: GgufHeader) -> dict[str, Any] | None:
    kind = header.own("rope.scaling.type", "none")
    if kind == "none":
        return None
    factor = _number(header, "rope.scaling.factor", 1.0)
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = _whole(header, "rope.scaling.original_context_length")
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    raise StorageError(f"the rotary scaling {str(kind)[:40]!r} cannot be imported", code="MDL004")


def _llama3_scaling(config: dict[str, Any], factors: Sequence[float]) -> dict[str, Any]:
    scaling = {"rope_type": "llama3", "factor": float(round(max(factors), 4)), **LLAMA3_ROPE}
    expected = llama3_factors(config["head_dim"], config["rope_theta"], scaling)
    if len(expected) != len(factors) or any(
        not math.isclose(a, b, rel_tol=1e-3) for a, b in zip(expected, factors, strict=True)
    ):
        raise StorageError("MLX's Llama 3 scaling cannot express its rotary frequencies", code="MDL004")
    return scaling


def llama3_factors(head_dim: int, base: float, scaling: dict[str, Any]) -> list[float]:
    """Return the factor of each rotary wavelength, as llama.cpp stores them in `rope_freqs.weight`."""
    scaled: Any = Llama3RoPE(head_dim, base=base, scaling_config=scaling)._freqs
    factors: list[float] = (scaled / base ** (mx.arange(0, head_dim, 2) / head_dim)).tolist()
    return factors


def _whole(header: GgufHeader, key: str, default: int | None = None) -> int:
    value = header.own(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
        raise StorageError(f"its {header.architecture}.{key} is {value!r}: a number above 0 is needed", code="MDL003")
    return value


def _number(header: GgufHeader, key: str, default: float) -> float:
    value = header.own(key, default)
    if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise StorageError(f"its {header.architecture}.{key} is {value!r}: a number above 0 is needed", code="MDL003")
    # The shortest decimal that is the same float32: 1e-05, not 9.999999747378752e-06.
    return float(f"{value:.7g}")
