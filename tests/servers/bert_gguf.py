"""A BERT model of safetensors written as a GGUF file, in the layout of llama.cpp's converter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

NAMES: Final = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
HEAD: Final = {"pooler.dense": "cls", "classifier": "cls.output"}
LAYER: Final = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def write_bert_gguf(folder: Path, file: Path, *, ranks: bool = False) -> Path:
    """Write the model of a folder, mean-pooled or with the head of a reranker, its matrices in half precision."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(str(file), "bert")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.RANK if ranks else gguf.PoolingType.MEAN)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer, folder)
    for name, array in load_file(folder / "model.safetensors").items():
        ours = _name(name.removeprefix("bert."), HEAD if ranks else {})
        if ours is not None:
            half = array.ndim == 2 and not ours.startswith(("position_embd", "token_types"))
            writer.add_tensor(ours, array.astype(np.float16 if half else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _name(name: str, head: dict[str, str]) -> str | None:
    stem, _, kind = name.rpartition(".")
    names = NAMES | head
    if stem in names:
        return f"{names[stem]}.{kind}"
    if stem.startswith("encoder.layer."):
        _, _, number, part = stem.split(".", 3)
        return f"blk.{number}.{LAYER[part]}.{kind}"
    return None


def _add_tokenizer(writer: Any, folder: Path) -> None:
    """Add the WordPiece vocabulary as llama.cpp writes it: a mark before the beginning of a word."""
    import gguf

    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {piece for piece in pieces if piece.startswith("[") and piece.endswith("]")}
    tokens = [
        piece if piece in special else piece[2:] if piece.startswith("##") else f"\u2581{piece}" for piece in pieces
    ]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if piece in special else gguf.TokenType.NORMAL for piece in pieces])
    writer.add_token_type_count(2)
    writer.add_bos_token_id(vocabulary["[CLS]"])
    writer.add_eos_token_id(vocabulary["[SEP]"])
    writer.add_unk_token_id(vocabulary["[UNK]"])
    writer.add_sep_token_id(vocabulary["[SEP]"])
    writer.add_pad_token_id(vocabulary["[PAD]"])
    writer.add_mask_token_id(vocabulary["[MASK]"])
