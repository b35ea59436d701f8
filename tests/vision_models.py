"""Tiny models that see, with random weights: one of each family that `ollmlx_mlx_vlm` runs."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}MARKER{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NUMBERS = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip
TEXT = {
    "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "patch_size": 8, "image_size": 32,
}  # fmt: skip
QWEN_EYES = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64, "num_heads": 2, "patch_size": 14,
    "window_size": 56, "fullatt_block_indexes": [1], "embed_dim": 32, "mlp_ratio": 2,
}  # fmt: skip
TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<image>",
    "<fake_token_around_image>", "<global-img>", "<start_of_image>", "<end_of_image>", "<image_soft_token>", "<pad>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
)  # fmt: skip
AT = {token: 256 + number for number, token in enumerate(TOKENS)}
SIZE = 256 + len(TOKENS)
"""Tokens: ASCII, as many that only answers have, then the special ones."""
SPLIT = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}, "do_image_splitting": True}
QWEN = {
    **TEXT, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "image_token_id": AT["<|image_pad|>"],
    "video_token_id": AT["<|video_pad|>"], "vision_start_token_id": AT["<|vision_start|>"], "tie_word_embeddings": True,
}  # fmt: skip
IDEFICS = {
    "text_config": {**TEXT, "model_type": "llama"}, "vision_config": SIGLIP, "scale_factor": 2,
    "image_token_id": AT["<image>"],
}  # fmt: skip
GEMMA = {
    "text_config": {
        **TEXT, "model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32,
        "sliding_window_pattern": 2, "mm_tokens_per_image": 4,
    },
    "vision_config": SIGLIP, "image_token_index": AT["<image_soft_token>"], "hidden_size": 64,
    "pad_token_id": AT["<pad>"],
}  # fmt: skip
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "qwen2_5_vl": (
        {**QWEN, "vision_config": {**QWEN_EYES, "model_type": "qwen2_5_vl"}},
        {"patch_size": 14, "merge_size": 2, "min_pixels": 56 * 56, "max_pixels": 112 * 112},
        "<|vision_start|><|image_pad|><|vision_end|>",
    ),
    "qwen2_vl": (
        {**QWEN, "vision_config": {**QWEN_EYES, "model_type": "qwen2_vl", "hidden_size": 64}},
        {"patch_size": 14, "merge_size": 2, "min_pixels": 56 * 56, "max_pixels": 112 * 112},
        "<|vision_start|><|image_pad|><|vision_end|>",
    ),
    "smolvlm": (IDEFICS, {**SPLIT, "image_processor_type": "SmolVLMImageProcessor"}, "<image>"),
    "idefics3": (IDEFICS, {**SPLIT, "image_processor_type": "Idefics3ImageProcessor"}, "<image>"),
    "gemma3": (
        GEMMA,
        {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 32, "width": 32}},
        "<start_of_image>",
    ),
}
"""Each family: its configuration, how it prepares pictures, and what its template writes for one."""
_LENGTHS = {"image_seq_len": 4, "image_seq_length": 4}


def seeing_model(folder: Path, family: str) -> Path:
    """Make the folder a model of this family."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import save_model
    from mlx_vlm.utils import update_module_configs

    stated, prepares, marker = FAMILIES[family]
    config = {**stated, "model_type": family, "vocab_size": SIZE, "eos_token_id": SIZE - 1}
    if "text_config" in config:
        config["text_config"] = {**config["text_config"], "vocab_size": SIZE}
    folder.mkdir(parents=True)
    module: Any = import_module(f"mlx_vlm.models.{family}")
    mx.random.seed(3)
    read = {"text_config": {}, **json.loads(json.dumps(config))}
    model = module.Model(update_module_configs(module.ModelConfig.from_dict(read), module, read, ["text", "vision"]))
    model.update(tree_map(lambda array: array + mx.random.normal(array.shape) * 0.1, model.parameters()))
    save_model(folder, model)
    files: dict[str, dict[str, Any]] = {
        "config": config,
        "preprocessor_config": {**NUMBERS, **prepares},
        "processor_config": _LENGTHS,
        "tokenizer_config": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": "<pad>",
            "eos_token": TOKENS[-1],
            "chat_template": CHAT.replace("MARKER", marker),
            "extra_special_tokens": {
                "boi_token": "<start_of_image>",
                "eoi_token": "<end_of_image>",
                "image_token": "<image_soft_token>",
            }
            if family == "gemma3"
            else {},
        },
    }
    if family == "idefics3":  # older folders have the template in a file that only processors read
        files["chat_template"] = {"chat_template": files["tokenizer_config"].pop("chat_template")}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    _tokenizer(folder)
    return folder


def _tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    ascii = [*(chr(256 + byte) for byte in range(33)), *map(chr, range(33, 127)), chr(289)]  # as ByteLevel spells it
    pieces = [*ascii, *(f"{number:02x}" for number in range(128))]
    tokenizer = Tokenizer(models.BPE(vocab={piece: at for at, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
