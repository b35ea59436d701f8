"""Models that see, with random weights: their answers are mlx-vlm's own, alone, beside others and from the cache."""

from __future__ import annotations

import asyncio
import io
from base64 import b64decode
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine_requests import Collected, ask, collect, running
from tests.pictures import base64_of, drawn
from tests.vision_families import FAMILIES
from tests.vision_models import AT, seeing_model

from ollmlx.errors import ContextExceeded, InvalidRequest
from ollmlx.protocol import TokenizeRequest
from ollmlx.types import GenerateRequest, Message, Options

pytest.importorskip("mlx_vlm")
pytestmark = [
    pytest.mark.mlx,
    pytest.mark.filterwarnings("ignore:Image.Image.getdata is deprecated", "ignore:At least one mel filter"),
]

from ollmlx_mlx.engine.engine import MlxEngine  # noqa: E402 - they import mlx-vlm
from ollmlx_mlx_vlm.engine.engine import MlxVlmEngine  # noqa: E402
from ollmlx_mlx_vlm.engine.eyes import Eyes  # noqa: E402

COLORS = ("red", "lime", "blue", "white", "black", "gold", "pink", "gray", "navy", "teal")
PICTURES = [base64_of(drawn(color, (48 + 8 * (number // 2), 64))) for number, color in enumerate(COLORS)]
ROTATES = ("gemma3",)
"""Families whose older keys go: their caches serve a prompt only up to where a turn ended."""
SINGLE = ("paddleocr_vl",)
"""Families of which mlx-vlm prepares one picture at a time."""
MAIN = ("gemma3", "gemma4-both-ways", "qwen2_5_vl", "qwen3_5", "smolvlm")
"""Families with different caches, positions and ways to see."""


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("seeing")
    return lru_cache(lambda family: seeing_model(root / family, family))


@pytest.fixture(params=MAIN)
def folder(request: pytest.FixtureRequest, folders: Any) -> Path:
    found: Path = folders(request.param)
    return found


@pytest.fixture
def qwen(folders: Any) -> Path:
    found: Path = folders("qwen2_5_vl")
    return found


def look(
    *pictures: str, said: str = "what is it?", options: dict[str, Any] | None = None, **fields: Any
) -> GenerateRequest:
    chosen = {"temperature": 0, "num_predict": 8, **(options or {})}
    messages = (Message(role="user", content=said, images=pictures),)
    return GenerateRequest(**({"messages": messages, "options": Options(**chosen), "top_logprobs": 0} | fields))


def own_answer(folder: Path, pictures: Sequence[str], said: str) -> tuple[list[float], int]:
    """Return the logarithms of mlx-vlm's own greedy tokens, and the length of the prompt in tokens."""
    import mlx.core as mx
    from mlx_vlm.generate import generate_step
    from mlx_vlm.utils import load
    from PIL import Image

    model, processor = load(str(folder), trust_remote_code=False)
    parts = [*({"type": "image"} for _ in pictures), {"type": "text", "text": said}]
    turns = [{"role": "user", "content": parts}]
    prompt = processor.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    images = [Image.open(io.BytesIO(b64decode(picture))) for picture in pictures]
    given = dict(processor(text=[prompt], images=images))
    given = {name: mx.array(np.array(value)) for name, value in given.items()}
    ids, pixels = mx.array(given.pop("input_ids")), given.pop("pixel_values")
    given.pop("attention_mask", None)
    mask = mx.ones_like(ids)
    steps = generate_step(ids, model, pixels, mask, max_tokens=8, temperature=0.0, **given)
    return [float(logprobs[token]) for token, logprobs in steps], int(ids.shape[1])


def logprobs(answer: Collected) -> list[float]:
    return [each.logprob for each in answer.logprobs]


def same(first: Sequence[float], second: Sequence[float]) -> bool:
    return list(first) == pytest.approx(list(second), abs=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_answer_is_mlx_vlms_own_alone_beside_others_and_from_the_cache(folders: Any, family: str) -> None:
    folder: Path = folders(family)
    requests = [look(picture) for picture in PICTURES]
    both, said = look(PICTURES[0], PICTURES[1]), "what is it?"
    async with running(MlxVlmEngine(), folder) as engine:
        alone = [await collect(engine, one) for one in (requests[0], both, requests[1])]
        again = await collect(engine, both)
        together = await asyncio.gather(*(collect(engine, one) for one in [*requests, both, ask("hello")]))
    for answer, shown in zip(alone, (PICTURES[:1], PICTURES[:2]), strict=False):
        if len(shown) > 1 and family in SINGLE:
            continue
        expected, length = own_answer(folder, shown, said)
        assert answer.logprobs
        assert same(logprobs(answer), expected[: len(answer.logprobs)])  # mlx-vlm's goes on after the end of a turn
        assert answer.done.prompt_tokens == length
    assert same(logprobs(again), logprobs(alone[1]))
    assert again.done.cached_tokens > 8 or family in ROTATES
    assert (together[0].text, together[10].text) == (alone[0].text, alone[1].text)
    assert same(logprobs(together[0]), logprobs(alone[0]))
    assert same(logprobs(together[1]), logprobs(alone[2]))
    assert not same(logprobs(alone[2])[:1], logprobs(alone[0])[:1])


async def test_ten_pictures_at_once_never_mix(folder: Path) -> None:
    requests = [look(picture, said=f"say {number}") for number, picture in enumerate(PICTURES)]
    async with running(MlxVlmEngine(), folder) as engine:
        together = await asyncio.gather(*(collect(engine, one) for one in requests))
    async with running(MlxVlmEngine(), folder, prompt_cache_bytes=0) as engine:
        for one, found in zip(requests, together, strict=True):
            assert same(logprobs(await collect(engine, one)), logprobs(found))
        other = await collect(engine, look(PICTURES[1], said="say 0"))
    assert not same(logprobs(other)[:1], logprobs(together[0])[:1])


async def test_a_conversation_goes_on_from_the_cache(folder: Path) -> None:
    async with running(MlxVlmEngine(), folder) as engine:
        first = look(PICTURES[0])
        said = await collect(engine, first)
        turns = (*first.messages, Message(role="assistant", content=said.text), Message(role="user", content="sure?"))
        next_one = look(messages=turns)
        warm = await collect(engine, next_one)
    async with running(MlxVlmEngine(), folder) as engine:
        cold = await collect(engine, next_one)
    assert warm.done.cached_tokens > 8
    assert cold.done.cached_tokens == 0
    assert same(logprobs(warm), logprobs(cold))


async def test_owners_share_nothing_of_a_picture(qwen: Path) -> None:
    async with running(MlxVlmEngine(), qwen) as engine:
        one = await collect(engine, look(PICTURES[0], cache_owner="a"))
        other = await collect(engine, look(PICTURES[0], cache_owner="b"))
    assert (one.done.cached_tokens, other.done.cached_tokens) == (0, 0)


async def test_seeds_grammars_stops_and_cancelling_work_with_pictures(qwen: Path) -> None:
    warm = {"temperature": 1.5, "seed": 7, "num_predict": 12}
    async with running(MlxVlmEngine(), qwen) as engine:
        first = await collect(engine, look(PICTURES[0], options=warm))
        events = engine.generate(look(PICTURES[2], options={"num_predict": 2000}))
        await anext(events)
        await events.aclose()
        second, held = await asyncio.gather(
            collect(engine, look(PICTURES[0], options=warm)),
            collect(
                engine, look(PICTURES[1], format={"type": "string", "enum": ["yes", "no"]}, options={"num_predict": 20})
            ),
        )
    assert first.text == second.text
    assert held.text in ('"yes"', '"no"')


async def test_text_is_answered_as_by_the_engine_for_text(folders: Any) -> None:
    folder = folders("qwen2_vl")
    answers = []
    for engine in (MlxVlmEngine(), MlxEngine()):
        async with running(engine, folder):
            answers.append(await collect(engine, ask("hello", "hi", "and you?", top_logprobs=0)))
    assert same(logprobs(answers[0]), logprobs(answers[1]))


async def test_a_template_of_the_request_gets_the_pictures_too(qwen: Path) -> None:
    async with running(MlxVlmEngine(), qwen) as engine:
        go = await engine.tokenize(
            TokenizeRequest(
                messages=look(PICTURES[0]).messages, template="{{ range .Messages }}<{{ .Content }}>{{ end }}"
            )
        )
        own = await engine.tokenize(TokenizeRequest(messages=look(PICTURES[0]).messages))
    assert go.prompt == "<<|vision_start|><|image_pad|><|vision_end|>what is it?>"
    assert own.tokens.count(AT["<|image_pad|>"]) == 4


async def test_what_does_not_fit_is_refused_or_loses_its_oldest_turns(qwen: Path) -> None:
    turns = tuple(
        Message(role=role, content="x" * 40, images=images)
        for role, images in (("user", PICTURES[:1]), ("assistant", ()), ("user", PICTURES[1:2]))
    )
    async with running(MlxVlmEngine(), qwen, context_length=160) as engine:
        shorter = await collect(engine, look(messages=turns))
        assert shorter.done.dropped > 0
        assert same(logprobs(shorter), logprobs(await collect(engine, look(messages=turns[2:]))))
        with pytest.raises(ContextExceeded):
            await collect(engine, look(messages=turns, truncate=False))
        with pytest.raises(ContextExceeded):
            await collect(engine, look(*PICTURES * 6))
        with pytest.raises(InvalidRequest, match="stands for a picture"):
            await collect(engine, look(PICTURES[0], said="<|image_pad|>"))


@pytest.mark.parametrize("family", ["kimi_vl", "mistral3", "qwen3_vl"])
def test_on_a_cpu_a_picture_of_too_many_patches_is_scaled_down(
    folders: Any, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    large = base64_of(drawn("red", (200, 160)))
    whole = Eyes(folders(family), trust=False).look(large, "")
    monkeypatch.setattr("ollmlx_mlx_vlm.engine.eyes.device_name", lambda: "cpu")
    monkeypatch.setattr("ollmlx_mlx_vlm.engine.eyes.PATCHES_ON_CPU", 24)
    assert 0 < Eyes(folders(family), trust=False).look(large, "").count <= 9 < whole.count  # edges are rounded up
