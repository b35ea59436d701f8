"""Tiny models with random weights, of the architectures that mlx-lm serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.byte_model import write_weights

from ollmlx_mlx.importer.gguf_tokenizer import read_tokenizer

ARCHITECTURES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data/architectures.json").read_text(encoding="utf-8")
)


def random_model(folder: Path, config: dict[str, Any], vocabulary: dict[str, Any]) -> Path:
    """Write an MLX folder: random weights of this configuration, and the tokenizer of this vocabulary."""
    write_weights(folder, config, seed=11)
    template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    template += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    tokenizer = read_tokenizer({**vocabulary, "tokenizer.chat_template": template})
    tokenizer.tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer.config), encoding="utf-8")
    return folder
