"""Plain completions and embeddings on the wire."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from ollmlx.errors import InvalidRequest
from ollmlx.types import Done, EmbedResult, Text, TokenLogprob
from ollmlx_openai_api.chat_response import usage
from ollmlx_openai_api.completions import CompletionChunks, CompletionRequest, EmbeddingsRequest, embeddings


def read(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", "prompt": "once", **fields})


def test_each_prompt_has_its_choices_beside_one_another() -> None:
    wanted = read(prompt=["a", "b"], n=2, seed=7).to_vocabulary()
    assert [(one.prompt, one.options.seed) for one in wanted] == [("a", 7), ("a", 8), ("b", 7), ("b", 8)]


def test_a_prompt_that_choices_share_is_counted_once() -> None:
    ends = [Done(prompt_tokens=count, generated_tokens=1) for count in (3, 3, 5, 5)]
    told = usage(ends, choices=2)
    assert (told["prompt_tokens"], told["completion_tokens"]) == (8, 4)


@pytest.mark.parametrize("fields", [{"prompt": []}, {"prompt": ["a"] * 100, "n": 2}, {"echo": True}])
def test_an_unsupported_field_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        read(**fields).to_vocabulary()


def test_text_offsets_count_the_characters_before_a_token() -> None:
    chunks = CompletionChunks({})
    events = (
        Text(text="ab", logprobs=(TokenLogprob(token="ab", logprob=-1),)),
        Text(text="c", logprobs=(TokenLogprob(token="c", logprob=-2),)),
        Done(),
    )
    made = [chunk["choices"][0] for event in events for chunk in chunks.chunks(event)]
    assert [choice["logprobs"] and choice["logprobs"]["text_offset"] for choice in made] == [[0], [2], None]
    assert made[-1]["finish_reason"] == "stop"


def test_vectors_are_floats_or_little_endian_base64() -> None:
    result = EmbedResult(embeddings=((0.5, -1.0),), prompt_tokens=4)
    assert embeddings("m", result, None)["data"][0]["embedding"] == [0.5, -1.0]
    packed = embeddings("m", result, "base64")["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == (0.5, -1.0)
    assert EmbeddingsRequest.model_validate({"model": "m", "input": "x"}).to_vocabulary().inputs == ("x",)
