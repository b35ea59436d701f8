"""The families of encoders: from a `config.json` to a shape, and from its authors' names of weights to ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import mlx.core as mx

from ollmlx.errors import Unsupported
from ollmlx_mlx.engine.encoder.network import Activation, EncoderShape

Weights = dict[str, mx.array]
Config = Mapping[str, Any]

_ACTIVATIONS: Final[dict[str, Activation]] = {
    "gelu": "gelu", "gelu_new": "gelu_approx", "gelu_pytorch_tanh": "gelu_approx", "relu": "relu", "silu": "silu",
    "swiglu": "silu", "swish": "silu",
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One way to name things. `names`: pairs of pattern and replacement; `join`: names that become one weight."""

    shape: Callable[[Config], EncoderShape]
    names: tuple[tuple[str, str], ...]
    prefixes: tuple[str, ...]
    join: Mapping[str, tuple[str, ...]]

    def rename(self, weights: Weights) -> Weights:
        """Return the encoder's weights under our names; those of heads are left out."""
        patterns = [(re.compile(pattern), ours) for pattern, ours in self.names]
        found: Weights = {}
        for name, array in weights.items():
            for prefix in self.prefixes:
                name = name.removeprefix(prefix)
            name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
            for pattern, ours in patterns:
                if pattern.match(name):
                    found[pattern.sub(ours, name)] = array
                    break
        return self._joined(found)

    def _joined(self, weights: Weights) -> Weights:
        parts: dict[str, dict[str, mx.array]] = {}
        joined: Weights = {}
        for name, array in weights.items():
            owner, _, last = name.rpartition(".")
            layer, _, part = owner.rpartition(".")
            target = next((ours for ours, pieces in self.join.items() if part in pieces), None)
            if target is None:
                joined[name] = array
            else:
                parts.setdefault(f"{layer}.{target}.{last}", {})[part] = array
        for name, pieces in parts.items():
            order = self.join[name.split(".")[-2]]
            joined[name] = mx.concatenate([pieces[piece] for piece in order if piece in pieces])
        return joined


def _activation(config: Config, *keys: str) -> Activation:
    name = next((str(config[key]) for key in keys if config.get(key)), "gelu")
    if name not in _ACTIVATIONS:
        raise Unsupported(f"the activation {name[:40]!r} is not supported", code="MDL004")
    return _ACTIVATIONS[name]


def _bert(config: Config, *, padded: bool = False) -> EncoderShape:
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise Unsupported("positions other than absolute ones are not supported for this family", code="MDL004")
    pad = config.get("pad_token_id")
    return EncoderShape(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        activation=_activation(config, "hidden_act"),
        epsilon=config.get("layer_norm_eps", 1e-12),
        positions=config.get("max_position_embeddings", 512),
        first_position=(1 if pad is None else pad) + 1 if padded else 0,
        types=config.get("type_vocab_size", 0),
    )


def _mpnet(config: Config) -> EncoderShape:
    shape = _bert({**config, "type_vocab_size": 0}, padded=True)
    return EncoderShape(**{**vars(shape), "buckets": True})


def _nomic(config: Config) -> EncoderShape:
    if "n_embd" not in config:  # the form of transformers' own port
        config = {
            **config, "n_embd": config["hidden_size"], "n_head": config["num_attention_heads"],
            "n_layer": config["num_hidden_layers"], "n_inner": config["intermediate_size"],
            "activation_function": "silu", "rotary_emb_base": _rope_base(config, 1000.0),
            "layer_norm_epsilon": config.get("layer_norm_eps", 1e-12),
        }  # fmt: skip
    width, heads, layers = config["n_embd"], config["n_head"], config["n_layer"]
    if config.get("prenorm") or config.get("rotary_emb_interleaved") or config.get("moe_every_n_layers"):
        raise Unsupported("this form of NomicBERT is not supported", code="MDL004")
    return EncoderShape(
        vocabulary=-(-config["vocab_size"] // (pad := config.get("pad_vocab_size_multiple", 1))) * pad,
        width=width,
        layers=layers,
        heads=heads,
        inner=config.get("n_inner") or 4 * width,
        activation=_activation(config, "activation_function"),
        epsilon=config.get("layer_norm_epsilon", 1e-12),
        types=config.get("type_vocab_size", 0),
        gated="glu" in str(config.get("activation_function")) or config.get("activation_function") == "silu",
        ropes=(float(config.get("rotary_emb_base", 10000.0)),) * layers,
        rotated=int(width // heads * config.get("rotary_emb_fraction", 1.0)),
        attention_bias=config.get("qkv_proj_bias", False),
        output_bias=config.get("qkv_proj_bias", False),
        inner_bias=config.get("mlp_fc1_bias", False),
    )


def _modern(config: Config) -> EncoderShape:
    layers, every = config["num_hidden_layers"], config.get("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types") or [
        "sliding_attention" if index % every else "full_attention" for index in range(layers)
    ]
    whole = _rope_base(config, config.get("global_rope_theta", 160000.0), "full_attention")
    local = _rope_base(config, config.get("local_rope_theta") or whole, "sliding_attention")
    near = config.get("local_attention", 128) // 2
    return EncoderShape(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        layers=layers,
        heads=config["num_attention_heads"],
        inner=config["intermediate_size"],
        activation=_activation(config, "hidden_activation"),
        epsilon=config.get("norm_eps", 1e-5),
        norms_first=True,
        first_norm=False,
        gated=True,
        ropes=tuple(whole if kind == "full_attention" else local for kind in kinds),
        rotated=config["hidden_size"] // config["num_attention_heads"],
        windows=tuple(0 if kind == "full_attention" else near for kind in kinds),
        norm_bias=config.get("norm_bias", False),
        attention_bias=config.get("attention_bias", False),
        output_bias=config.get("attention_bias", False),
        inner_bias=config.get("mlp_bias", False),
    )


def _rope_base(config: Config, default: float, kind: str | None = None) -> float:
    """Return the base of the rotation. Configurations of transformers 5 keep it in `rope_parameters`."""
    stated = config.get("rope_parameters")
    table = stated.get(kind, stated) if isinstance(stated, dict) else {}
    return float((table or {}).get("rope_theta") or config.get("rope_theta") or default)


_BERT_NAMES: Final = (
    (r"embeddings\.word_embeddings\.", "tokens."),
    (r"embeddings\.position_embeddings\.", "positions."),
    (r"embeddings\.token_type_embeddings\.", "types."),
    (r"embeddings\.LayerNorm\.", "norm."),
    (r"encoder\.relative_attention_bias\.", "buckets."),
    (r"encoder\.layer\.(\d+)\.attention\.(?:self|attn)\.(query|key|value|q|k|v)\.", r"layers.\1.\2."),
    (r"encoder\.layer\.(\d+)\.attention\.(?:output\.dense|attn\.o)\.", r"layers.\1.out."),
    (r"encoder\.layer\.(\d+)\.attention\.(?:output\.)?LayerNorm\.", r"layers.\1.norm1."),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.", r"layers.\1.up."),
    (r"encoder\.layer\.(\d+)\.output\.dense\.", r"layers.\1.down."),
    (r"encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"layers.\1.norm2."),
)
_NOMIC_NAMES: Final = (
    (r"embeddings\.word_embeddings\.", "tokens."),
    (r"embeddings\.token_type_embeddings\.", "types."),
    (r"(?:emb_ln|embeddings\.LayerNorm)\.", "norm."),
    (r"encoder\.layers\.(\d+)\.attn\.Wqkv\.", r"layers.\1.qkv."),
    (r"encoder\.layers\.(\d+)\.attn\.out_proj\.", r"layers.\1.out."),
    (r"encoder\.layers\.(\d+)\.mlp\.(fc11|fc12)\.", r"layers.\1.\2."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.", r"layers.\1.up."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.", r"layers.\1.down."),
    (r"encoder\.layers\.(\d+)\.(norm1|norm2)\.", r"layers.\1.\2."),
)
_MODERN_NAMES: Final = (
    (r"embeddings\.tok_embeddings\.", "tokens."),
    (r"embeddings\.norm\.", "norm."),
    (r"layers\.(\d+)\.attn\.Wqkv\.", r"layers.\1.qkv."),
    (r"layers\.(\d+)\.attn\.Wo\.", r"layers.\1.out."),
    (r"layers\.(\d+)\.attn_norm\.", r"layers.\1.norm1."),
    (r"layers\.(\d+)\.mlp_norm\.", r"layers.\1.norm2."),
    (r"layers\.(\d+)\.mlp\.Wi\.", r"layers.\1.up."),
    (r"layers\.(\d+)\.mlp\.Wo\.", r"layers.\1.down."),
    (r"final_norm\.", "final_norm."),
)
_JOIN: Final = {"qkv": ("query", "q", "key", "k", "value", "v"), "up": ("fc12", "fc11")}
_PREFIXES: Final = ("bert.", "roberta.", "mpnet.", "model.")

FAMILIES: Final[dict[str, Family]] = {
    "bert": Family(_bert, _BERT_NAMES, _PREFIXES, _JOIN),
    **dict.fromkeys(
        ("camembert", "roberta", "xlm-roberta"),
        Family(lambda config: _bert(config, padded=True), _BERT_NAMES, _PREFIXES, _JOIN),
    ),
    "mpnet": Family(_mpnet, _BERT_NAMES, _PREFIXES, _JOIN),
    "nomic_bert": Family(_nomic, _NOMIC_NAMES, _PREFIXES, _JOIN),
    "modernbert": Family(_modern, _MODERN_NAMES, _PREFIXES, {}),
}
