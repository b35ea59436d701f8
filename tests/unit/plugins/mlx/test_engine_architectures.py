"""Every architecture through the engine: alone and in a batch, cancelled, from the prefix cache, unloaded and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollmlx.testing.requests import ask, cancel_when, collect, running, together
from ollmlx.testing.waiting import eventually
from ollmlx.types import Prefill, Text
from ollmlx_mlx.engine.engine import MlxEngine

pytestmark = pytest.mark.mlx

QUESTIONS = ("one two three", "a somewhat longer question about nothing at all", "x")
LONG = "word " * 150


async def test_it_answers_the_same_alone_and_in_a_batch(architecture: Path) -> None:
    async with running(MlxEngine(), architecture, prompt_cache_bytes=0, parallel=3) as engine:
        requests = [ask(question) for question in QUESTIONS]
        alone = [(await collect(engine, request)).done.context for request in requests]
        batch = [one.done.context for one in await together(engine, requests)]
        assert batch == alone
        if engine.status().parallel == 1:
            assert any("one by one" in note for note in engine.status().notes)


@pytest.mark.fault(40)
async def test_a_cancelled_request_frees_its_place_and_the_others_go_on(architecture: Path) -> None:
    async with running(MlxEngine(), architecture, parallel=2) as engine:
        expected = (await collect(engine, ask("hello"))).done.context
        for kind in (Prefill, Text):
            await cancel_when(engine, ask(LONG, options={"num_predict": 200}), kind)
            assert (await collect(engine, ask("hello"))).done.context == expected
        await eventually(lambda: engine.status().active == 0)


async def test_the_next_turn_and_the_next_life_pay_only_for_what_is_new(architecture: Path, tmp_path: Path) -> None:
    first = ask(LONG)
    saved = {"cache_dir": tmp_path / "caches", "cache_dir_bytes": 1 << 28}
    async with running(MlxEngine(), architecture, prompt_cache_bytes=0) as engine:
        answer = (await collect(engine, first)).text
        second = ask(LONG, answer, "and then?")
        cold = await collect(engine, second)
    async with running(MlxEngine(), architecture, **saved) as engine:
        await collect(engine, first)
        warm = await collect(engine, second)
        assert warm.done.cached_tokens > 100
        assert warm.done.context == cold.done.context
    async with running(MlxEngine(), architecture, **saved) as engine:
        revived = await collect(engine, second)
        assert revived.done.cached_tokens > 100
        assert revived.done.context == cold.done.context
