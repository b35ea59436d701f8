"""Tiny models with random weights as llama.cpp's GGUF files, and the same models in Ollama's own dialect.

A family is described once, as llama.cpp has it; `in_ollamas` says how Ollama's converter writes it: the architecture,
names of tensors and keys, and the projector inside the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.servers.llava_gguf import CHAT

WIDTH: Final = 64
INNER: Final = 96
EXPERTS: Final = 4
LAYERS: Final = 2
EYE: Final = 32
BREAK_ROW: Final = "v.token_embd.img_break"
"""The row of the embedding that Pixtral's projector has: that of the token `BREAK`, which is the last."""
BREAK: Final = "[IMG_BREAK]"
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Projector:
    """A projector's metadata and tensors, as in llama.cpp's own file; `stored`: Ollama's key of each of `numbers`."""

    kind: str
    numbers: Mapping[str, tuple[str, int]]
    shapes: Shapes
    epsilon: tuple[str, float]
    activation: str = "use_gelu"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)
    rotates: bool = False
    """True when llama.cpp's file has queries and keys in the order of rotary positions."""


@dataclass(frozen=True)
class Family:
    """A family of models. `renamed`: parts of llama.cpp's names of tensors, and Ollama's; the first that fits is used.

    `dropped`: keys that Ollama's files lack; `more`: those that only they have.
    """

    architecture: str
    ollamas: str
    numbers: Mapping[str, Any]
    shapes: Shapes
    renamed: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    projector: Projector | None = None


def write_stock(folder: Path, family: Family) -> tuple[Path, Path | None]:
    """Write a model, and its projector if it has one, as llama.cpp's converter does."""
    folder.mkdir(parents=True, exist_ok=True)
    model = _write(folder / "model.gguf", family.architecture, _numbers(family, family.architecture), family.shapes)
    if family.projector is None:
        return model, None
    return model, _write_projector(folder / "mmproj.gguf", family)


def write_ollamas(folder: Path, family: Family) -> Path:
    """Write the same model in Ollama's dialect, as one file."""
    folder.mkdir(parents=True, exist_ok=True)
    dropped = [f"{family.ollamas}.{name}" for name in family.dropped]
    numbers = {name: value for name, value in _numbers(family, family.ollamas).items() if name not in dropped}
    numbers |= {f"{family.ollamas}.{name}": value for name, value in family.more.items()}
    shapes = dict(family.shapes)
    if family.projector is not None:
        shapes |= {name: shape for name, shape in family.projector.shapes.items() if name != BREAK_ROW}
        numbers |= {f"{family.ollamas}.{own}": number for own, number in family.projector.numbers.values() if own}
        key, epsilon = family.projector.epsilon
        numbers |= {f"{family.ollamas}.{key}": epsilon} if key else {}
    rotates = family.projector is not None and family.projector.rotates
    return _write(folder / "ollamas.gguf", family.ollamas, numbers, shapes, family.renamed, rotates=rotates)


def _numbers(family: Family, architecture: str) -> dict[str, Any]:
    common = {
        "context_length": 1024, "embedding_length": WIDTH, "block_count": LAYERS, "feed_forward_length": INNER,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-6,
    }  # fmt: skip
    return {f"{architecture}.{name}": value for name, value in {**common, **family.numbers}.items()}


def _write(
    file: Path, architecture: str, numbers: Mapping[str, Any], shapes: Shapes, renamed: Mapping[str, str] = {}, *,
    rotates: bool = False,
) -> Path:  # fmt: skip
    import gguf

    writer = gguf.GGUFWriter(str(file), architecture)
    _add(writer, numbers)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    letters = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *letters, BREAK]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3, *[6] * 256, 3])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT)
    embedding = {"token_embd.weight": (len(tokens), WIDTH)}
    return _finish(writer, file, {**embedding, **shapes}, renamed, rotates=rotates)


def _write_projector(file: Path, family: Family) -> Path:
    import gguf

    projector = family.projector
    assert projector is not None
    writer = gguf.GGUFWriter(str(file), "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", projector.kind)
    writer.add_bool(f"clip.{projector.activation}", True)
    _add(writer, {f"clip.vision.{name}": number for name, (_, number) in projector.numbers.items()})
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", projector.epsilon[1])
    writer.add_array("clip.vision.image_mean", list(projector.mean))
    writer.add_array("clip.vision.image_std", list(projector.deviation))
    return _finish(writer, file, projector.shapes, {})


def _add(writer: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)


def _finish(writer: Any, file: Path, shapes: Shapes, renamed: Mapping[str, str], *, rotates: bool = False) -> Path:
    for name, shape in shapes.items():
        tensor = _drawn(name, shape)
        if rotates and name.startswith("v.") and name.endswith(("attn_q.weight", "attn_k.weight")):
            tensor = tensor.reshape(2, -1, 2, shape[1]).swapaxes(1, 2).reshape(shape)  # as PyTorch has two heads
        old = next((part for part in renamed if part in name), None)
        writer.add_tensor(name.replace(old, renamed[old]) if old is not None else name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _drawn(name: str, shape: tuple[int, ...]) -> Any:
    """Return random weights: the same in every file."""
    import zlib

    import numpy as np

    if name == BREAK_ROW:
        return _drawn("token_embd.weight", (260, *shape))[-1]
    tensor = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape) * 0.3
    return (tensor + any(part in name for part in ("norm", ".ln", "_ln"))).astype(np.float32)


# -- shapes ----------------------------------------------------------------------------------------------------------


def _layers(parts: Shapes, *, at: str = "blk.", count: int = LAYERS) -> Shapes:
    return {f"{at}{layer}.{name}": shape for layer in range(count) for name, shape in parts.items()}


def _attention(head: int = 16, *, bias: bool = False) -> Shapes:
    sides = {"q": 4 * head, "k": 2 * head, "v": 2 * head}
    found: Shapes = {f"attn_{part}.weight": (side, WIDTH) for part, side in sides.items()}
    found["attn_output.weight"] = (WIDTH, 4 * head)
    if bias:
        found |= {f"attn_{part}.bias": (side,) for part, side in sides.items()}
    return found


MLP: Final[Shapes] = {
    "ffn_gate.weight": (INNER, WIDTH), "ffn_up.weight": (INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER),
}  # fmt: skip


def _eye(names: tuple[str, ...] = ("ln1", "ln2"), *, bias: bool = True, gate: bool = False) -> Shapes:
    """Return the tensors of a vision encoder's layers, two of them."""
    parts: Shapes = {f"attn_{part}.weight": (EYE, EYE) for part in ("q", "k", "v", "out")}
    parts |= {f"{name}.weight": (EYE,) for name in names}
    parts |= {"ffn_up.weight": (48, EYE), "ffn_down.weight": (EYE, 48)}
    if gate:
        parts["ffn_gate.weight"] = (48, EYE)
    if bias:
        parts |= {
            name.replace("weight", "bias"): shape[:1]
            for name, shape in parts.items()
            if not (name.startswith("ln") and gate)
        }
    return _layers(parts, at="v.blk.")


NORMS: Final[Shapes] = {"attn_norm.weight": (WIDTH,), "ffn_norm.weight": (WIDTH,)}
OUTPUT: Final[Shapes] = {"output.weight": (260, WIDTH), "output_norm.weight": (WIDTH,)}
_HEADS: Final = {"attention.key_length": 16, "attention.value_length": 16}
_GEMMA: Final = _layers(
    {
        **_attention(), **MLP, **NORMS, "attn_q_norm.weight": (16,), "attn_k_norm.weight": (16,),
        "post_attention_norm.weight": (WIDTH,), "post_ffw_norm.weight": (WIDTH,),
    }
)  # fmt: skip
_EXPERT: Final[Shapes] = {
    "ffn_gate_exps.weight": (EXPERTS, INNER, WIDTH), "ffn_up_exps.weight": (EXPERTS, INNER, WIDTH),
    "ffn_down_exps.weight": (EXPERTS, WIDTH, INNER), "ffn_gate_exps.bias": (EXPERTS, INNER),
    "ffn_up_exps.bias": (EXPERTS, INNER), "ffn_down_exps.bias": (EXPERTS, WIDTH),
    "ffn_gate_inp.weight": (EXPERTS, WIDTH), "ffn_gate_inp.bias": (EXPERTS,),
}  # fmt: skip
_EYE_NUMBERS: Final = {
    "patch_size": ("vision.patch_size", 14),
    "embedding_length": ("vision.embedding_length", EYE),
    "block_count": ("vision.block_count", 2),
    "attention.head_count": ("vision.attention.head_count", 2),
    "projection_dim": ("", WIDTH),
}
_EPSILON: Final = ("vision.attention.layer_norm_epsilon", 1e-6)
_GEMMA3_EYE: Final = Projector(
    "gemma3",
    {
        **_EYE_NUMBERS, "image_size": ("vision.image_size", 112),
        "feed_forward_length": ("vision.feed_forward_length", 48),
    },
    {
        "v.patch_embd.weight": (EYE, 3, 14, 14), "v.patch_embd.bias": (EYE,), "v.position_embd.weight": (64, EYE),
        "v.post_ln.weight": (EYE,), "v.post_ln.bias": (EYE,), "mm.input_projection.weight": (EYE, WIDTH),
        "mm.soft_emb_norm.weight": (EYE,), **_eye(),
    },
    _EPSILON,
)  # fmt: skip
_QWEN_EYE: Final = Projector(
    "qwen2.5vl_merger",
    {
        **_EYE_NUMBERS, "image_size": ("", 560), "feed_forward_length": ("", 48), "n_wa_pattern": ("", 2),
        "spatial_merge_size": ("vision.spatial_merge_size", 2), "window_size": ("vision.window_size", 112),
    },
    {
        "v.patch_embd.weight": (EYE, 3, 14, 14), "v.patch_embd.weight.1": (EYE, 3, 14, 14),
        "v.post_ln.weight": (EYE,), "mm.0.weight": (4 * EYE, 4 * EYE), "mm.0.bias": (4 * EYE,),
        "mm.2.weight": (WIDTH, 4 * EYE), "mm.2.bias": (WIDTH,), **_eye(gate=True),
    },
    _EPSILON,
    activation="use_silu",
    mean=(0.48145466, 0.4578275, 0.40821073),
    deviation=(0.26862954, 0.26130258, 0.27577711),
)  # fmt: skip
_PIXTRAL_EYE: Final = Projector(
    "pixtral",
    {
        **_EYE_NUMBERS, "image_size": ("vision.image_size", 112),
        "feed_forward_length": ("vision.feed_forward_length", 48), "spatial_merge_size": ("spatial_merge_size", 2),
    },
    {
        "v.patch_embd.weight": (EYE, 3, 14, 14), "v.pre_ln.weight": (EYE,), "mm.1.weight": (WIDTH, EYE),
        "mm.2.weight": (WIDTH, WIDTH), "mm.input_norm.weight": (EYE,), "mm.patch_merger.weight": (EYE, 4 * EYE),
        BREAK_ROW: (WIDTH,), **_eye(bias=False, gate=True),
    },
    ("", 1e-5),
    activation="use_silu",
    mean=(0.48145466, 0.4578275, 0.40821073),
    deviation=(0.26862954, 0.26130258, 0.27577711),
    rotates=True,
)  # fmt: skip

FAMILIES: Final[Mapping[str, Family]] = {
    "embeddinggemma": Family(
        "gemma-embedding",
        "gemma3",
        {
            **_HEADS, "attention.sliding_window": 512, "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4,
            "pooling_type": 1, "dense_2_feat_in": WIDTH, "dense_2_feat_out": INNER, "dense_3_feat_in": INNER,
            "dense_3_feat_out": WIDTH,
        },
        {
            "output_norm.weight": (WIDTH,), "dense_2.weight": (INNER, WIDTH), "dense_3.weight": (WIDTH, INNER),
            **_GEMMA,
        },
        renamed={"dense_2.": "dense.0.", "dense_3.": "dense.1.", "output_norm.weight": "norm.weight"},
        dropped=("dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out", "rope.freq_base_swa"),
    ),
    "gemma3": Family(
        "gemma3",
        "gemma3",
        {**_HEADS, "attention.sliding_window": 512, "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4},
        {"output_norm.weight": (WIDTH,), **_GEMMA},
        renamed={
            "v.patch_embd.": "v.patch_embedding.", "v.position_embd.": "v.position_embedding.",
            "v.post_ln.": "v.post_layernorm.", ".ln1.": ".layer_norm1.", ".ln2.": ".layer_norm2.",
            ".attn_out.": ".attn_output.", "mm.input_projection.": "mm.mm_input_projection.",
            "mm.soft_emb_norm.": "mm.mm_soft_emb_norm.",
        },
        dropped=("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.freq_base_swa"),
        more={"rope.global.freq_base": 1e6, "mm.tokens_per_image": 4},
        projector=_GEMMA3_EYE,
    ),
    "gptoss": Family(
        "gpt-oss",
        "gptoss",
        {
            **_HEADS, "attention.sliding_window": 128, "rope.freq_base": 150000.0, "rope.scaling.type": "yarn",
            "rope.scaling.factor": 32.0, "rope.scaling.original_context_length": 4096, "expert_count": EXPERTS,
            "expert_used_count": 2, "expert_feed_forward_length": INNER,
        },
        {
            **OUTPUT,
            **_layers(
                {
                    **_attention(bias=True), **_EXPERT, "attn_output.bias": (WIDTH,), "attn_sinks.weight": (4,),
                    "attn_norm.weight": (WIDTH,), "post_attention_norm.weight": (WIDTH,),
                }
            ),
        },
        renamed={
            ".attn_output.": ".attn_out.", ".attn_sinks.weight": ".attn_sinks", ".post_attention_norm.": ".ffn_norm.",
        },
        dropped=("expert_feed_forward_length", "rope.scaling.type"),
    ),
    "lfm2": Family(
        "lfm2",
        "lfm2",
        {"attention.head_count_kv": [0, 2], "shortconv.l_cache": 3, "rope.freq_base": 1e6},
        {
            "token_embd_norm.weight": (WIDTH,), **_layers({**MLP, **NORMS}),
            "blk.0.shortconv.conv.weight": (WIDTH, 3), "blk.0.shortconv.in_proj.weight": (3 * WIDTH, WIDTH),
            "blk.0.shortconv.out_proj.weight": (WIDTH, WIDTH), "blk.1.attn_q_norm.weight": (16,),
            "blk.1.attn_k_norm.weight": (16,), **{f"blk.1.{name}": shape for name, shape in _attention().items()},
        },
        renamed={"token_embd_norm": "output_norm"},
        dropped=("feed_forward_length",),
        more={"feed_forward_length": 12288},
    ),
    "mistral3": Family(
        "mistral3",
        "mistral3",
        {
            **_HEADS, "rope.dimension_count": 16, "rope.freq_base": 1e6, "rope.scaling.type": "yarn",
            "rope.scaling.factor": 16.0, "rope.scaling.original_context_length": 512,
            "rope.scaling.yarn_beta_fast": 32.0, "rope.scaling.yarn_beta_slow": 1.0,
            "rope.scaling.yarn_log_multiplier": 1.0, "attention.temperature_scale": 0.1,
        },
        {**OUTPUT, **_layers({**_attention(), **MLP, **NORMS})},
        renamed={
            "v.patch_embd.": "v.patch_conv.", "v.pre_ln.": "v.encoder_norm.", ".attn_out.": ".attn_output.",
            ".ln1.": ".attn_norm.", ".ln2.": ".ffn_norm.", "mm.1.": "mm.linear_1.", "mm.2.": "mm.linear_2.",
            "mm.patch_merger.": "mm.patch_merger.merging_layer.", "mm.input_norm.": "mm.norm.",
        },
        dropped=(
            "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "rope.scaling.yarn_log_multiplier",
            "attention.temperature_scale",
        ),
        more={
            "rope.scaling.beta_fast": 32.0, "rope.scaling.beta_slow": 1.0, "rope.scaling.mscale_all_dim": 1.0,
            "rope.scaling_beta": 0.1,
        },
        projector=_PIXTRAL_EYE,
    ),
    "olmo3": Family(
        "olmo2",
        "olmo3",
        {"attention.sliding_window": 512, "rope.freq_base": 500000.0},
        {
            **OUTPUT,
            **_layers(
                {
                    **_attention(), **MLP, "attn_q_norm.weight": (64,), "attn_k_norm.weight": (32,),
                    "post_attention_norm.weight": (WIDTH,), "post_ffw_norm.weight": (WIDTH,),
                }
            ),
        },
    ),
    "qwen25vl": Family(
        "qwen2vl",
        "qwen25vl",
        {"rope.freq_base": 1e6, "rope.dimension_sections": [2, 3, 3, 0]},
        {**OUTPUT, **_layers({**_attention(bias=True), **MLP, **NORMS})},
        renamed={
            "v.post_ln.": "v.merger.ln_q.", "mm.0.": "v.merger.mlp.0.", "mm.2.": "v.merger.mlp.2.",
            "v.patch_embd.weight.1": "v.patch_embd_1.weight", "v.patch_embd.weight": "v.patch_embd_0.weight",
        },
        dropped=("rope.dimension_sections",),
        more={"rope.mrope_section": [2, 3, 3], "vision.fullatt_block_indexes": [1]},
        projector=_QWEN_EYE,
    ),
}  # fmt: skip
"""By their names in Ollama's converter."""
