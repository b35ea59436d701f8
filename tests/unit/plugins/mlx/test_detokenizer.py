"""Streamed text is the whole text, cut between characters and never inside one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ollmlx_mlx.engine.text.detokenizer import DetokenizerFactory
from ollmlx_mlx.importer.gguf_tokenizer import read_tokenizer

pytestmark = pytest.mark.mlx


class Wrapped:
    """What the factory needs of a tokenizer."""

    def __init__(self, backend: Tokenizer) -> None:
        self.backend_tokenizer = backend


@pytest.fixture(scope="module")
def backend(tiny_vocabulary: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    file: Path = tmp_path_factory.mktemp("detokenizer") / "tokenizer.json"
    read_tokenizer(tiny_vocabulary).tokenizer.save(str(file))
    return Tokenizer.from_file(str(file))


@given(text=st.text(alphabet="ab é日😀👩🏽\u200d🇩\n", max_size=12))
def test_any_text_comes_out_in_whole_characters(backend: Tokenizer, text: str) -> None:
    ids = backend.encode(text, add_special_tokens=False).ids
    detokenizer = DetokenizerFactory(Wrapped(backend))()
    pieces = [detokenizer.add(token) for token in ids]
    pieces.append(detokenizer.flush())
    assert "".join(pieces) == backend.decode(ids, skip_special_tokens=False) == text
    assert all("\ufffd" not in piece for piece in pieces)


@given(text=st.text(alphabet="日😀", min_size=1, max_size=4))
def test_a_character_that_never_gets_complete_is_not_shown(backend: Tokenizer, text: str) -> None:
    ids = backend.encode(text, add_special_tokens=False).ids
    detokenizer = DetokenizerFactory(Wrapped(backend))()
    shown = "".join(detokenizer.add(token) for token in ids[:-1]) + detokenizer.flush()
    assert text.startswith(shown)
