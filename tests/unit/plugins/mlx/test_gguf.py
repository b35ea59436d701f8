"""The tokenizer of a GGUF file gives llama.cpp's ids, and its weights the values that the gguf library gives.

`data/regenerate.py` made the expected ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import gguf.quants
import mlx.core as mx
import numpy as np
import pytest
from tests.unit.plugins.mlx.data.teacher_forced import dequantised

from ollmlx.errors import StorageError
from ollmlx.formats.gguf import GGUF_BLOCKS, GgufTensor
from ollmlx_mlx.importer.gguf_tokenizer import read_tokenizer
from ollmlx_mlx.importer.gguf_weights import GROUP, REQUANTISED, read_tensor

pytestmark = pytest.mark.mlx
FIXTURE: dict[str, Any] = json.loads((Path(__file__).parent / "data/llamacpp_ids.json").read_text(encoding="utf-8"))
STRINGS: list[str] = FIXTURE["strings"]
KINDS: list[str] = list(FIXTURE["kinds"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", range(len(STRINGS)), ids=[text[:12] for text in STRINGS])
def test_ids_equal_those_of_llama_cpp(kind: str, index: int) -> None:
    case = FIXTURE["kinds"][kind]
    tokenizer = read_tokenizer(case["metadata"]).tokenizer
    assert tokenizer.encode(STRINGS[index], add_special_tokens=False).ids == case["plain"][index]


@pytest.mark.parametrize("kind", KINDS)
def test_a_leading_token_is_added_where_llama_cpp_adds_one(kind: str) -> None:
    case = FIXTURE["kinds"][kind]
    tokenizer = read_tokenizer(case["metadata"]).tokenizer
    assert tokenizer.encode("Hello world").ids == case["with_bos"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", STRINGS, ids=[text[:12] for text in STRINGS])
def test_decoding_gives_the_text_back(kind: str, text: str) -> None:
    tokenizer = read_tokenizer(FIXTURE["kinds"][kind]["metadata"]).tokenizer
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def metadata(**changes: Any) -> dict[str, Any]:
    base = dict(FIXTURE["kinds"]["smollm"]["metadata"])
    base |= {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in base.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokenizer__ggml__pre": "bloom"}, "'bloom'"),
        ({"tokenizer__ggml__pre": None}, "known are"),
        ({"tokenizer__ggml__model": "bert"}, "'bert'"),
        ({"tokenizer__ggml__tokens": None}, "no tokenizer"),
        ({"tokenizer__ggml__tokens": ["a", "a"]}, "the same"),
        ({"tokenizer__ggml__merges": None}, "no merges"),
        ({"tokenizer__ggml__merges": ["ab"]}, "malformed"),
        ({"tokenizer__ggml__merges": ["no such"]}, "merges"),
        ({"tokenizer__ggml__tokens": ["a", "b\udcff"], "tokenizer__ggml__merges": []}, "UTF-8"),
        ({"tokenizer__ggml__model": "llama"}, "no scores"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(StorageError) as refused:
        read_tokenizer(metadata(**changes))
    assert words in refused.value.message


def test_every_end_token_is_known_the_declared_one_first() -> None:
    tokenizer = read_tokenizer(metadata())
    assert tokenizer.eos == (2, 0)
    assert tokenizer.config["eos_token"] == "<|im_end|>"


def test_the_chat_template_comes_along() -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert read_tokenizer(metadata(tokenizer__chat_template=template)).config["chat_template"] == template
    assert "chat_template" not in read_tokenizer(metadata()).config


def test_special_tokens_are_found_inside_a_text_and_hidden_when_asked() -> None:
    tokenizer = read_tokenizer(metadata()).tokenizer
    ids = tokenizer.encode("<|im_start|>user", add_special_tokens=False).ids
    assert ids[0] == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user"


EXACT = sorted(set(GGUF_BLOCKS) - set(REQUANTISED) - {"F32", "F16", "BF16"})
ROWS, COLUMNS = 8, 512


def random_blocks(kind: str) -> np.ndarray:
    """Random bytes, with the half-precision scales made small and finite."""
    rng = np.random.default_rng(3)
    _, values, size = GGUF_BLOCKS[kind]
    blocks = rng.integers(0, 256, (ROWS * COLUMNS // values, size), dtype=np.uint8)
    halves: dict[str, tuple[int, ...]] = dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2))
    halves |= {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}
    for at in halves.get(kind, (0,)):
        scales = rng.uniform(0.001, 0.02, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = scales[:, None].view(np.uint8)
    return blocks.reshape(-1)


def info(kind: str, data: np.ndarray) -> GgufTensor:
    return GgufTensor("blk.0.attn_q.weight", (ROWS, COLUMNS), kind, 0, data.size)


def unpacked(kind: str, data: np.ndarray, heads: int | None = None) -> np.ndarray:
    found = read_tensor(info(kind, data), data, heads=heads)
    assert found.bits is not None
    scales, biases = (found.arrays[name].astype(mx.float32) for name in ("scales", "biases"))
    return np.array(mx.dequantize(found.arrays["weight"], scales, biases, group_size=GROUP, bits=found.bits))


@pytest.mark.parametrize("kind", EXACT)
def test_blocks_that_mlx_can_hold_keep_their_codes(kind: str) -> None:
    data = random_blocks(kind)
    expected = dequantised(info(kind, data), data)
    # Scales of K-quants are products that half precision rounds; everything else is exact.
    tolerance = 2e-3 if kind.endswith("_K") else 1e-6
    np.testing.assert_allclose(unpacked(kind, data), expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("kind", sorted(REQUANTISED))
def test_other_blocks_are_quantised_again_without_noticeable_loss(kind: str) -> None:
    data = random_blocks(kind)
    expected = dequantised(info(kind, data), data)
    error = np.sqrt(np.mean((unpacked(kind, data) - expected) ** 2))
    steps = 2 ** REQUANTISED[kind] - 1
    assert error < 1.2 * np.ptp(expected.reshape(ROWS, -1, GROUP), axis=-1).max() / steps


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_plain_numbers_stay_as_they_are(kind: str) -> None:
    values = np.random.default_rng(1).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    data = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind]).reshape(-1).view(np.uint8)
    found = read_tensor(info(kind, data), data)
    assert found.bits is None
    np.testing.assert_array_equal(
        np.array(found.arrays["weight"].astype(mx.float32)), dequantised(info(kind, data), data)
    )


@pytest.mark.parametrize("kind", ["F32", "Q4_1", "Q8_0", "Q6_K"])
def test_rotary_rows_are_put_back_in_order(kind: str) -> None:
    values = np.random.default_rng(2).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    data = random_blocks(kind) if kind != "F32" else values.reshape(-1).view(np.uint8)
    plain = dequantised(info(kind, data), data)
    # Two heads of four rows: llama.cpp stores 0 2 1 3 of what transformers calls 0 1 2 3.
    order = [0, 2, 1, 3, 4, 6, 5, 7]
    if kind == "F32":
        got = np.array(read_tensor(info(kind, data), data, heads=2).arrays["weight"])
    else:
        got = unpacked(kind, data, heads=2)
        plain = unpacked(kind, data)
    np.testing.assert_array_equal(got, plain[order])


def test_rows_that_do_not_split_into_heads_are_refused() -> None:
    data = random_blocks("Q8_0")
    with pytest.raises(StorageError, match="3 heads"):
        read_tensor(info("Q8_0", data), data, heads=3)


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(StorageError, match="type 29"):
        read_tensor(GgufTensor("x", (1, 256), "type 29", 0, 0), np.zeros(8, dtype=np.uint8))
