"""Tiny MLX models with random weights: of each architecture; and one whose tokens are bytes, with greedy answers."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ollmlx_mlx.importer.gguf_tokenizer import read_tokenizer

VOCABULARY = 300
ARCHITECTURES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "unit/plugins/mlx/data/architectures.json").read_text(encoding="utf-8")
)
"""Small configurations of the architectures that mlx-lm serves."""
LONG = {"max_position_embeddings": 32768}
LLAMA = {**ARCHITECTURES["llama"], **LONG, "hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 6}
"""Divides among two and three ranks."""
DEEPSEEK = {**ARCHITECTURES["deepseek_v3"], **LONG, "num_hidden_layers": 3}
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


def byte_model(folder: Path, config: dict[str, Any]) -> Path:
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


DATA = Path(__file__).parent / "unit/plugins/mlx/data"
RECORDED: dict[str, Any] = json.loads((DATA / "encoders.json").read_text(encoding="utf-8"))
"""By family: the configuration, the shapes of the weights, and the outputs for `token_ids`. `record_encoders.py` in
benchmarks/ made it."""
RERANKERS: dict[str, Any] = json.loads((DATA / "rerankers.json").read_text(encoding="utf-8"))
"""Pairs of a query and a document, and by model what is above, with a logit for each pair."""
LENGTHS = (3, 7, 41)


def weight(name: str, shape: list[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the weight that a tiny model has under this name, as in the recording."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32) * 0.2
    return values + 1 if "norm" in name.lower() and name.endswith("weight") else values


def token_ids() -> list[list[int]]:
    return [[int(token) for token in np.random.default_rng(count).integers(3, 64, count)] for count in LENGTHS]


def tiny_encoder(folder: Path, family: str, recordings: dict[str, Any] = RECORDED, /, **files: Any) -> Path:
    """Write a tiny model with a tokenizer of 64 words, `w3` to `w63`. `files`: further JSON files by path."""
    import mlx.core as mx
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    recorded = recordings[family]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(recorded["config"]), encoding="utf-8")
    weights = {name: mx.array(weight(name, shape)) for name, shape in recorded["shapes"].items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    words = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, **{f"w{number}": number for number in range(3, 64)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "[CLS]", "sep_token": "[SEP]"}),
        encoding="utf-8",
    )
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def recorded_minilm() -> tuple[list[str], np.ndarray[Any, np.dtype[np.float32]]]:
    """Return the texts of the recording, and the vectors of sentence-transformers for them."""
    recording = json.loads((DATA / "minilm.json").read_text(encoding="utf-8"))
    vectors = np.frombuffer(base64.b64decode(recording["float16"]), dtype=np.float16)
    return recording["texts"], vectors.reshape(-1, recording["dimensions"]).astype(np.float32)
