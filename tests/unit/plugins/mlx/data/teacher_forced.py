"""Run by test_real_model in a child with a fast BLAS: compare an imported folder with its GGUF file.

    python teacher_forced.py FOLDER GGUF ANSWERS.json

The yardstick is built without the importer: weights unpacked by the `gguf` library, rotary rows put back one by one.
Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
from mlx_lm.models.llama import Model, ModelArgs
from tests.engine_requests import config_for

from ollmlx.formats.gguf import GGUF_BLOCKS, GgufTensor, read_gguf_header
from ollmlx_mlx.engine.load import LoadedModel, load_model

PARTS = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
PARTS |= {"attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj"}
PARTS |= {"ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def dequantised(info: GgufTensor, data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The tensor in float32, by the `gguf` library."""
    rows = data[info.offset : info.offset + info.nbytes].reshape(int(np.prod(info.shape[:-1])), -1)
    values = gguf.quants.dequantize(rows, gguf.GGMLQuantizationType(GGUF_BLOCKS[info.kind][0]))
    return np.asarray(values, dtype=np.float32).reshape(info.shape)


def yardstick(file: Path) -> Model:
    """SmolLM2 in float32, its sizes written out here."""
    weights: dict[str, mx.array] = {}
    data = np.memmap(file, dtype=np.uint8, mode="r")
    for tensor in read_gguf_header(file).tensors:
        values = dequantised(tensor, data)
        stem = tensor.name.removesuffix(".weight")
        if stem in WHOLE:
            name = WHOLE[stem]
        else:
            _, layer, part = stem.split(".")
            name = f"model.layers.{layer}.{PARTS[part]}"
            if part in ("attn_q", "attn_k"):
                values = in_order(values, {"attn_q": 9, "attn_k": 3}[part])
        weights[f"{name}.weight"] = mx.array(values)
    model = Model(
        ModelArgs(
            model_type="llama", hidden_size=576, num_hidden_layers=30, intermediate_size=1536, num_attention_heads=9,
            num_key_value_heads=3, rms_norm_eps=1e-5, vocab_size=49152, rope_theta=100000.0, tie_word_embeddings=True,
        )
    )  # fmt: skip
    model.load_weights(list(weights.items()), strict=True)
    return model


def in_order(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """llama.cpp stores the two halves of each head's rows interleaved: 0, n/2, 1, n/2+1, ..."""
    rows = values.shape[0] // heads
    order = [
        head * rows + (2 * (row % (rows // 2)) + row // (rows // 2)) for head in range(heads) for row in range(rows)
    ]
    return values[order]


def imported(folder: Path, form: str) -> LoadedModel:
    return load_model(config_for(folder, engine_options={"weights": form}))


def number(array: mx.array) -> Any:
    """The only value of an array."""
    return array.item()


def main(folder: Path, file: Path, answers: Path) -> None:
    theirs = yardstick(file)
    ours = imported(folder, "float32")
    places = same = llama = llama_places = 0
    worst = 0.0
    for answer in json.loads(answers.read_text(encoding="utf-8")):
        messages = [{"role": "user", "content": answer["prompt"]}]
        prompt = ours.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        tokens = mx.array([[*prompt, *answer["tokens"]]])
        expected, got = theirs(tokens)[0], ours.model(tokens)[0]
        best, best_expected = mx.argmax(got, -1), mx.argmax(expected, -1)
        same += number(mx.sum(best == best_expected))
        places += tokens.shape[1]
        worst = max(worst, number(mx.max(mx.abs(got - expected))))
        chosen: Any = best[len(prompt) - 1 : -1].tolist()
        llama += sum(a == b for a, b in zip(chosen, answer["tokens"], strict=True))
        llama_places += len(answer["tokens"])
    packed = imported(folder, "packed")
    few = tokens[:, :12]
    drift = number(mx.max(mx.abs(packed.model(few) - theirs(few))))
    told = {"places": places, "same": same, "worst": worst, "llama_places": llama_places, "llama_same": llama}
    print(json.dumps({**told, "packed_worst": drift, "spread": number(mx.std(expected)), "notes": packed.notes}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
