"""Options: Ollama's names, types and sentences; values that samplers cannot use are brought into range."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import InvalidRequest
from ollmlx.types import Options
from ollmlx_ollama_api.options import TYPES, options

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NAMES = st.sampled_from([*TYPES, "mirostat"])


@pytest.mark.parametrize(
    ("given", "stated"),
    [
        ({}, {}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": -1}, {"temperature": 0.0}),
        ({"temperature": None, "num_ctx": None}, {}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 40.9}, {"top_k": 40}),
        ({"top_p": 1.5, "min_p": -0.5}, {"top_p": 1.0, "min_p": 0.0}),
        ({"num_predict": -1}, {"num_predict": -1}),
        ({"num_predict": -2}, {"num_predict": -2}),
        ({"num_predict": -999}, {"num_predict": -1}),
        ({"num_predict": 10**12}, {"num_predict": 2**31 - 1}),
        ({"num_ctx": 0}, {}),
        ({"num_ctx": -1}, {}),
        ({"num_ctx": 1}, {"num_ctx": 4}),
        ({"num_ctx": 2**63}, {"num_ctx": 2**31 - 1}),
        ({"repeat_penalty": 0}, {"repeat_penalty": 1.0}),
        ({"repeat_last_n": -5}, {"repeat_last_n": -1}),
        ({"seed": 42}, {"seed": 42}),
        ({"seed": -7}, {"seed": -1}),
        ({"seed": 2**64}, {"seed": 0}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"stop": []}, {"stop": ()}),
        ({"num_gpu": 1, "num_thread": 8, "use_mmap": True}, {}),
        ({"mirostat": 1, "tfs_z": 0.5}, {}),
        ({"backend": "mlx"}, {"backend": "mlx"}),
    ],
)
def test_options_are_read_as_ollama_means_them(given: dict[str, Any], stated: dict[str, Any]) -> None:
    assert options(given).stated == stated


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"num_ctx": "x"}, 'option "num_ctx" must be of type integer'),
        ({"num_predict": True}, 'option "num_predict" must be of type integer'),
        ({"top_k": [1]}, 'option "top_k" must be of type integer'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"num_gpu": "all"}, 'option "num_gpu" must be of type integer'),
        ({"backend": 1}, 'option "backend" must be of type string'),
    ],
)
def test_a_known_option_of_a_wrong_type_is_refused_with_ollamas_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        options(given)
    assert refused.value.message == sentence


def test_an_unknown_option_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert options({"mirostat": 2}) == Options()
    assert "invalid option provided: 'mirostat'" in caplog.text


@given(st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=2), max_size=5))
def test_any_options_are_used_or_refused_in_a_sentence(given: dict[str, Any]) -> None:
    try:
        found = options(given)
    except InvalidRequest:
        return
    assert Options.model_validate(found.stated) == found
