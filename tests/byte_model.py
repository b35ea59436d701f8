"""A tiny MLX model with random weights whose tokens are bytes, and what it would say: computed without any server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCABULARY = 300
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
}
"""Divides among two and three ranks."""
DEEPSEEK: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "n_shared_experts": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "qk_nope_head_dim": 16,
    "norm_topk_prob": True,
}
"""Latent attention and experts; its layers can be a pipeline."""


def write_weights(folder: Path, config: dict[str, Any], seed: int) -> None:
    """Write a configuration and random weights for it into a new folder."""
    import mlx.core as mx  # mlx-lm brings transformers: tests that need no mlx do not wait for them
    from mlx.utils import tree_map
    from mlx_lm.utils import _get_classes, save_model

    folder.mkdir(parents=True)
    mx.random.seed(seed)
    model_class, arguments = _get_classes(config)
    model = model_class(arguments.from_dict(config))
    # Initial weights of some architectures are all zero or all one: every token would be the same.
    model.update(tree_map(lambda array: array + mx.random.normal(array.shape) * 0.05, model.parameters()))
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def write_model(folder: Path, config: dict[str, Any]) -> Path:
    """Make the folder a model of this configuration. It never ends by itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    write_weights(folder, {**config, "vocab_size": VOCABULARY, "eos_token_id": [VOCABULARY - 1]}, seed=5)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    extra = (f"<{number}>" for number in range(VOCABULARY - len(letters)))
    tokenizer = Tokenizer(models.BPE(vocab={piece: at for at, piece in enumerate([*letters, *extra])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": f"<{VOCABULARY - len(letters) - 1}>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def greedy(folder: Path, prompt: str, count: int) -> list[int]:
    """The prompt's tokens and the `count` likeliest ones after it, each computed anew from the whole."""
    import mlx.core as mx
    from mlx_lm.utils import load

    model, tokenizer, *_ = load(str(folder))
    tokens: list[int] = tokenizer.encode(prompt)
    for _ in range(count):
        likeliest: Any = mx.argmax(model(mx.array([tokens]))[0, -1]).item()
        tokens.append(likeliest)
    return tokens
