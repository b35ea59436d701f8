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


def write_folder(folder: Path, config: Any, **files: Any) -> Path:
    """Write a model's folder with one small tensor. `config`: an object, or text; `files`: more of them, by stem."""
    folder.mkdir(exist_ok=True)
    content = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(content, encoding="utf-8")
    raw = json.dumps({"w": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))
    for name, file in files.items():
        (folder / f"{name}.json").write_text(json.dumps(file), encoding="utf-8")
    return folder
