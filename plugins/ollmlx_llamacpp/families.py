"""The families whose files in Ollama's dialect are written anew: what llama.cpp calls what Ollama calls otherwise.

Only names and metadata differ, so a copy has the same weights. Every family here is loaded by llama.cpp in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Own = Callable[[str], Any]
"""A function that returns the value of `<architecture>.<key>`, or None."""
Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of tensors by their names, the row length last."""

PREFIXES: Final = ("v.", "mm.")
"""The beginnings of the names of a projector's tensors."""


@dataclass(frozen=True)
class EyeRules:
    """The rules for a projector: its type in llama.cpp, names of tensors, and keys below `clip.vision.`.

    `fixed`: values that Ollama's file does not have. `promoted`: tensors that llama.cpp computes with in float32.
    `interleaved`: ends of the names of weights whose rows llama.cpp has in the order of its rotary positions. `breaks`:
    the token whose row of the embedding the projector has, too.
    """

    kind: str
    names: tuple[tuple[str, str], ...]
    promoted: tuple[str, ...]
    keys: Mapping[str, str] = field(default_factory=dict)
    fixed: Callable[[Own, Shapes], dict[str, int]] = lambda own, shapes: {}
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)
    activation: str = "use_gelu"
    epsilon: float = 1e-6
    interleaved: tuple[str, ...] = ()
    breaks: str = ""


@dataclass(frozen=True)
class TextRules:
    """The rules for a language model. `to`: llama.cpp's architecture; `names`: parts of names, `^` before a beginning.

    `keys`: old to new keys of the architecture; `dropped`: those that mislead llama.cpp; `fixed`: values of keys that
    are missing, or set anew; `metadata`: those of other keys.
    """

    to: str
    names: tuple[tuple[str, str], ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    fixed: Callable[[Own, Shapes], dict[str, Any]] = lambda own, shapes: {}
    metadata: Mapping[str, Any] = field(default_factory=dict)
    eye: EyeRules | None = None


_EYE_KEYS: Final = {
    name: f"vision.{name}"
    for name in (
        "attention.head_count", "block_count", "embedding_length", "feed_forward_length", "image_size", "patch_size",
    )
}  # fmt: skip
CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION: Final = (0.26862954, 0.26130258, 0.27577711)


def _gemma3(own: Own, shapes: Shapes) -> dict[str, Any]:
    """Return what Gemma 3 files lack: numbers that are the same for all, and the longer context of the larger ones."""
    found: dict[str, Any] = {
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1_000_000.0,
        "rope.freq_base_swa": 10_000.0,
    }
    if (own("context_length") or 0) >= 131_072:
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    return {key: value for key, value in found.items() if own(key) is None}


def _dense(own: Own, shapes: Shapes) -> dict[str, Any]:
    (first_out, first_in), (last_out, last_in) = shapes["dense.0.weight"], shapes["dense.1.weight"]
    sizes = {
        "dense_2_feat_in": first_in, "dense_2_feat_out": first_out,
        "dense_3_feat_in": last_in, "dense_3_feat_out": last_out,
    }  # fmt: skip
    return {**_gemma3(own, shapes), **sizes}


def _gpt_oss(own: Own, shapes: Shapes) -> dict[str, Any]:
    inner = shapes["blk.0.ffn_gate_exps.weight"][-2]
    found = {"expert_feed_forward_length": inner, "rope.scaling.type": "yarn"}
    return {key: value for key, value in found.items() if own(key) is None}


def _sections(own: Own, shapes: Shapes) -> dict[str, Any]:
    """Return the sections of rotary positions: llama.cpp has four, the files three."""
    sections = own("rope.mrope_section") or own("rope.dimension_sections")
    return {"rope.dimension_sections": [*sections, 0][:4]} if isinstance(sections, list) else {}


def _qwen_eye(own: Own, shapes: Shapes) -> dict[str, int]:
    whole = own("vision.fullatt_block_indexes")
    return {
        "feed_forward_length": shapes["v.blk.0.ffn_up.weight"][0],
        "image_size": 560,
        "n_wa_pattern": whole[0] + 1 if isinstance(whole, list) and whole else 8,
    }


GEMMA3_EYE: Final = EyeRules(
    "gemma3",
    names=(
        ("v.patch_embedding.", "v.patch_embd."), ("v.position_embedding.", "v.position_embd."),
        ("v.post_layernorm.", "v.post_ln."), (".layer_norm1.", ".ln1."), (".layer_norm2.", ".ln2."),
        (".attn_output.", ".attn_out."), (".mlp.fc1.", ".ffn_up."), (".mlp.fc2.", ".ffn_down."),
        ("mm.mm_input_projection.", "mm.input_projection."), ("mm.mm_soft_emb_norm.", "mm.soft_emb_norm."),
    ),
    promoted=("v.patch_embd.weight", "v.position_embd.weight"),
    keys=_EYE_KEYS,
)  # fmt: skip
QWEN25_EYE: Final = EyeRules(
    "qwen2.5vl_merger",
    names=(
        ("v.merger.ln_q.", "v.post_ln."), ("v.merger.mlp.", "mm."),
        ("v.patch_embd_0.weight", "v.patch_embd.weight"), ("v.patch_embd_1.weight", "v.patch_embd.weight.1"),
    ),
    promoted=("v.patch_embd.weight", "v.patch_embd.weight.1"),
    keys={
        **{key: stored for key, stored in _EYE_KEYS.items() if key not in ("feed_forward_length", "image_size")},
        "spatial_merge_size": "vision.spatial_merge_size",
        "window_size": "vision.window_size",
    },
    fixed=_qwen_eye,
    mean=CLIP_MEAN,
    deviation=CLIP_DEVIATION,
    activation="use_silu",
)  # fmt: skip

PIXTRAL_EYE: Final = EyeRules(
    "pixtral",
    names=(
        ("v.patch_conv.", "v.patch_embd."), ("v.encoder_norm.", "v.pre_ln."), (".attn_output.", ".attn_out."),
        (".attn_norm.", ".ln1."), (".ffn_norm.", ".ln2."), ("mm.linear_1.", "mm.1."), ("mm.linear_2.", "mm.2."),
        ("mm.patch_merger.merging_layer.", "mm.patch_merger."), ("mm.norm.", "mm.input_norm."),
    ),
    promoted=("v.patch_embd.weight",),
    keys={**_EYE_KEYS, "spatial_merge_size": "spatial_merge_size"},
    mean=CLIP_MEAN,
    deviation=CLIP_DEVIATION,
    activation="use_silu",
    epsilon=1e-5,
    interleaved=(".attn_q.weight", ".attn_k.weight"),
    breaks="[IMG_BREAK]",
)  # fmt: skip

FAMILIES: Final[Mapping[str, TextRules]] = {
    "embeddinggemma": TextRules(
        "gemma-embedding",
        names=(("dense.0.", "dense_2."), ("dense.1.", "dense_3."), ("^norm.", "output_norm.")),
        dropped=("attention.causal", "attention.sliding_window_pattern"),
        fixed=_dense,
    ),
    "gemma3": TextRules(
        "gemma3",
        keys={"rope.global.freq_base": "rope.freq_base", "rope.local.freq_base": "rope.freq_base_swa"},
        fixed=_gemma3,
        eye=GEMMA3_EYE,
    ),
    "gptoss": TextRules(
        "gpt-oss",
        names=((".attn_out.", ".attn_output."), (".attn_sinks", ".attn_sinks.weight"),
               (".ffn_norm.", ".post_attention_norm.")),
        fixed=_gpt_oss,
        metadata={"tokenizer.ggml.pre": "gpt-4o"},
    ),
    "lfm2": TextRules(
        "lfm2",
        names=(("output_norm.", "token_embd_norm."),),
        fixed=lambda own, shapes: {"feed_forward_length": shapes["blk.0.ffn_gate.weight"][0]},
        metadata={"tokenizer.ggml.pre": "lfm2"},
    ),
    "mistral3": TextRules(
        "mistral3",
        keys={
            "rope.scaling.beta_fast": "rope.scaling.yarn_beta_fast",
            "rope.scaling.beta_slow": "rope.scaling.yarn_beta_slow",
            "rope.scaling.mscale_all_dim": "rope.scaling.yarn_log_multiplier",
            "rope.scaling_beta": "attention.temperature_scale",
        },
        eye=PIXTRAL_EYE,
    ),
    "olmo3": TextRules("olmo2"),
    "qwen25vl": TextRules("qwen2vl", fixed=_sections, eye=QWEN25_EYE),
}  # fmt: skip
"""By the name of the architecture in the file; `embeddinggemma` calls itself `gemma3`."""


def family_of(architecture: str, names: Mapping[str, Any]) -> str:
    """Return the name of a file's family: its architecture, but for models whose tensors tell them apart."""
    return "embeddinggemma" if architecture == "gemma3" and "dense.0.weight" in names else architecture
