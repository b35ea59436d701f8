"""Tiny encoders with random weights, as transformers computed with them, and the real all-MiniLM-L6-v2."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

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
