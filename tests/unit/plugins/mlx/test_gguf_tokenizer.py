"""The tokenizer out of GGUF metadata gives llama.cpp's ids. `data/regenerate.py` made the expected ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ollmlx.errors import StorageError
from ollmlx_mlx.importer.gguf_tokenizer import read_tokenizer

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
