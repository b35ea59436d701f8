"""Eighteen architectures of mlx-lm, tiny and random: accepted, estimated, loaded, computed with, served."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model as load_stored
from tests.engine_requests import ask, cancel_when, collect, config_for, running, together

from ollmlx.testing.waiting import eventually
from ollmlx.types import Prefill, Text
from ollmlx_mlx.daemon.backend import MlxBackend, MlxSettings
from ollmlx_mlx.daemon.estimate import cache_shape
from ollmlx_mlx.daemon.known_models import KnownModels, installed_mlx_lm
from ollmlx_mlx.daemon.machine import MlxMachine
from ollmlx_mlx.engine.batching.decode import OutputHead
from ollmlx_mlx.engine.engine import MlxEngine
from ollmlx_mlx.engine.load import load_model, parameters
from ollmlx_mlx.folder import weight_sizes

pytestmark = pytest.mark.mlx


def test_it_is_accepted_and_estimated(architecture: Path) -> None:
    backend = MlxBackend(
        MlxSettings(),
        MlxMachine("linux", "x86_64", "", 2, {"mlx": "1", "mlx-cpu": "1"}),
        budget=lambda: 1 << 33,
        trusted=lambda model: False,
        mlx_lm=installed_mlx_lm(),
    )
    model = config_for(architecture).model
    assert backend.accepts(model) is None
    assert backend.estimate(model, 2048, 2).total > 0


def test_it_loads_and_computes_and_its_caches_are_as_large_as_estimated(architecture: Path) -> None:
    loaded = load_model(config_for(architecture))
    content = json.loads((architecture / "config.json").read_text(encoding="utf-8"))
    expected = sum(array.nbytes for array in parameters(loaded.model))
    assert weight_sizes(architecture, content).float32 == pytest.approx(expected, rel=0.05)

    cache = make_prompt_cache(loaded.model)
    tokens = mx.arange(300)[None] % 800
    logits = loaded.model(tokens, cache=cache)
    mx.eval(logits)
    for _ in range(3):  # one at a time, as answers are computed
        logits = loaded.model(mx.array([[7]]), cache=cache)
        mx.eval(logits)
    assert mx.all(mx.isfinite(logits)).item()
    folder = installed_mlx_lm()
    assert folder is not None
    known = KnownModels(folder)
    shape = cache_shape(known.complete(content), rotates=known.rotates(content), latents=known.keeps_latents(content))
    width = 4 if loaded.device == "cpu" else 2
    used = sum(layer.nbytes for layer in cache)
    estimated = shape.values(303) * width
    assert estimated >= 0.98 * used - shape.windowed * 256 * width
    assert estimated <= 1.15 * used + 3 * shape.fixed * width + shape.windowed * 256 * width


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
async def test_a_cancelled_request_frees_its_slot_and_the_others_go_on(architecture: Path) -> None:
    async with running(MlxEngine(), architecture, parallel=2) as engine:
        expected = (await collect(engine, ask("hello"))).done.context
        for kind in (Prefill, Text):
            await cancel_when(engine, ask(LONG, options={"num_predict": 200}), kind)
            assert (await collect(engine, ask("hello"))).done.context == expected
        await eventually(lambda: engine.status().active == 0)


async def test_the_next_turn_and_the_next_process_compute_only_new_tokens(architecture: Path, tmp_path: Path) -> None:
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


def test_the_last_position_alone_has_the_logits_it_has_among_all(architecture: Path) -> None:
    model, _ = load_stored(architecture)
    tokens = mx.arange(20)[None]
    whole = model(tokens, cache=make_prompt_cache(model))
    head = OutputHead(model)
    assert head.narrows
    with head.last_only():
        alone = model(tokens, cache=make_prompt_cache(model))
    assert alone.shape == (1, 1, whole.shape[-1])
    assert mx.allclose(alone[:, -1], whole[:, -1], rtol=1e-4, atol=1e-4).item()
    assert model(tokens, cache=make_prompt_cache(model)).shape == whole.shape


class HeadElsewhere(Module):
    """A model whose head has an unusual name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Module] = []

    def __call__(self, tokens: mx.array, cache: list[object] | None = None) -> mx.array:
        return mx.zeros((*tokens.shape, 5))


def test_a_head_that_is_not_found_is_left_alone() -> None:
    model = HeadElsewhere()
    head = OutputHead(model)
    assert not head.narrows
    with head.last_only():
        assert model(mx.array([[1, 2, 3]])).shape == (1, 3, 5)
