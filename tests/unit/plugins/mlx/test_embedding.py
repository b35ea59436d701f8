"""Embeddings are the same one by one and many at once, and cut and normalised as asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollmlx.errors import ContextExceeded, InvalidRequest
from ollmlx.testing.asking import running
from ollmlx.types import EmbedRequest
from ollmlx_mlx.engine import MlxEngine

pytestmark = pytest.mark.mlx
TEXTS = ("a", "a longer text about many things", "one more", "word " * 40, "b")


async def test_a_text_has_the_same_vector_alone_and_among_others_and_a_long_one_is_cut(architecture: Path) -> None:
    async with running(MlxEngine(), architecture, context_length=64) as engine:
        many = await engine.embed(EmbedRequest(inputs=TEXTS))
        for text, vector in zip(TEXTS, many.embeddings, strict=True):
            alone = await engine.embed(EmbedRequest(inputs=(text,)))
            assert alone.embeddings[0] == pytest.approx(vector, abs=1e-4)
            assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-4)
        few = await engine.embed(EmbedRequest(inputs=TEXTS[:1], dimensions=4))
        assert len(few.embeddings[0]) == 4
        with pytest.raises(InvalidRequest, match="dimensions must be at most"):
            await engine.embed(EmbedRequest(inputs=("a",), dimensions=10**6))
        cut = await engine.embed(EmbedRequest(inputs=("word " * 40,)))
        assert cut.prompt_tokens == 64
        with pytest.raises(ContextExceeded):
            await engine.embed(EmbedRequest(inputs=("word " * 40,), truncate=False))
