"""Embeddings are the same one by one and many at once, and cut and normalised as asked."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.engine_requests import ask, collect, running

from ollmlx.errors import ContextExceeded, InvalidRequest
from ollmlx.testing import eventually
from ollmlx.types import EmbedRequest
from ollmlx_mlx.engine.batching.prefill import ChunkClock
from ollmlx_mlx.engine.engine import MlxEngine

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


async def test_a_long_text_in_pieces_has_the_vector_it_has_at_once(
    architecture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = EmbedRequest(inputs=("a word or two about many things " * 20,))
    async with running(MlxEngine(), architecture, context_length=128) as engine:
        monkeypatch.setattr(ChunkClock, "size", lambda clock, slices=1.0: 2048)
        before = engine.status().progress
        whole = await engine.embed(text)
        assert engine.status().progress - before == 2, "the vector, and the end"
        monkeypatch.setattr(ChunkClock, "size", lambda clock, slices=1.0: 16)
        before = engine.status().progress
        pieces = await engine.embed(text)
        assert engine.status().progress - before == 8 + 1, "every piece is progress"
    assert whole.prompt_tokens == pieces.prompt_tokens == 128
    assert pieces.embeddings[0] == pytest.approx(whole.embeddings[0], abs=1e-3)


@pytest.mark.fault(40)
@pytest.mark.parametrize("architecture", ["llama"], indirect=True)
@pytest.mark.parametrize("inputs", [("word " * 3000,), ("word " * 30,) * 500], ids=["long", "many"])
async def test_a_cancelled_request_for_vectors_computes_no_more(
    architecture: Path, monkeypatch: pytest.MonkeyPatch, inputs: tuple[str, ...]
) -> None:
    monkeypatch.setattr(ChunkClock, "size", lambda clock, slices=1.0: 16)
    async with running(MlxEngine(), architecture, context_length=100_000) as engine:
        before = engine.status().progress
        leaving = asyncio.create_task(engine.embed(EmbedRequest(inputs=inputs)))
        await eventually(lambda: engine.status().progress > before + 1)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert (await collect(engine, ask("hello"))).done.generated_tokens > 0
        assert engine.status().progress - before < 150
