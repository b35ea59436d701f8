"""Makes tiny models that see, with random weights: one of each family that `ollmlx_mlx_vlm` runs."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.vision_families import FAMILIES, TOKENS

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}MARKER{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NUMBERS = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "do_convert_rgb": True,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip
AT = {token: 256 + number for number, token in enumerate(TOKENS)}
SIZE = 256 + len(TOKENS)
"""Tokens: ASCII, as many that only answers have, then the special ones."""


def seeing_model(folder: Path, family: str) -> Path:
    """Make the folder a model of this family."""
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.utils import save_model
    from mlx_vlm.utils import update_module_configs

    stated, prepares, marker, *more = FAMILIES[family]
    processor, special = [*more, {}, {}][:2]
    family = family.removesuffix("-both-ways")
    stated = {name: AT.get(value, value) if isinstance(value, str) else value for name, value in stated.items()}
    config = {**stated, "model_type": family, "vocab_size": SIZE, "eos_token_id": SIZE - 1}
    if "text_config" in config:
        config["text_config"] = {**config["text_config"], "vocab_size": SIZE}
    folder.mkdir(parents=True)
    module: Any = import_module(f"mlx_vlm.models.{family}")
    mx.random.seed(8)
    read = {"text_config": {}, **json.loads(json.dumps(config))}
    model = module.Model(update_module_configs(module.ModelConfig.from_dict(read), module, read, ["text", "vision"]))
    model.update(tree_map(lambda array: array + mx.random.normal(array.shape) * 0.1, model.parameters()))
    save_model(folder, model)
    files: dict[str, dict[str, Any]] = {
        "config": config,
        "preprocessor_config": {**NUMBERS, **prepares},
        "processor_config": processor,
        "tokenizer_config": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": "<pad>",
            "eos_token": TOKENS[-1],
            "chat_template": CHAT.replace("MARKER", marker),
            "extra_special_tokens": special,
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
