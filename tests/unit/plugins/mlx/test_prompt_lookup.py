"""Guesses from prompt and answer: the same text in fewer steps, and never a noticeable loss of time."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.engine_requests import config_for

from ollmlx.types import Done, GenerateRequest, Options
from ollmlx_mlx.engine.batching import prompt_lookup
from ollmlx_mlx.engine.batching.generation import Item
from ollmlx_mlx.engine.batching.prefill import ChunkClock
from ollmlx_mlx.engine.batching.prompt_lookup import PromptLookup
from ollmlx_mlx.engine.batching.scheduler import BatchScheduler
from ollmlx_mlx.engine.engine import make_generation
from ollmlx_mlx.engine.instance import Instance, build
from ollmlx_mlx.engine.kv_cache import make_layers
from ollmlx_mlx.engine.prefix_cache import PrefixCache

pytestmark = [pytest.mark.mlx, pytest.mark.parametrize("architecture", ["llama"], indirect=True, scope="module")]
OPTIONS = [Options(temperature=0, num_predict=120), Options(temperature=0.3, seed=3, num_predict=120)]
SEVERAL = 0.5
"""The time of a step of several tokens; a plain one takes 1. Together with the acceptance it decides what pays."""


class ModelTime:
    """A clock that only computing moves: by 1 for a token, by `several` for several at once."""

    def __init__(self, several: float) -> None:
        self.now = self.guessing = 0.0
        self._several = several

    def __call__(self) -> float:
        return self.now

    def watch(self, model: Any) -> Any:
        """Return a context in which the calls of this model move the clock."""
        original = type(model).__call__

        def compute(this: Any, inputs: Any, **others: Any) -> Any:
            duration = 1.0 if inputs.shape[1] == 1 else self._several
            self.now += duration
            self.guessing += duration if inputs.shape[1] > 1 else 0
            return original(this, inputs, **others)

        return patch.object(type(model), "__call__", compute)


@pytest.fixture(scope="module")
def instance(architecture: Path) -> Instance:
    return build(config_for(architecture), lambda _: None)


def answer(instance: Instance, options: Options, clock: ModelTime | None) -> tuple[Done, int]:
    """An answer and the number of rounds it took; without a clock, no guesses are made."""
    model = instance.loaded.model
    scheduler = BatchScheduler(
        model,
        PrefixCache(0),
        lambda: make_layers(model),
        width=1,
        pool=1 << 16,
        clock=ChunkClock(512),
        drafter=PromptLookup(model, clock) if clock is not None else None,
    )
    items: list[Item] = []
    request = GenerateRequest(prompt="one two three " * 8, options=options)
    scheduler.submit(make_generation(instance, request, items.extend))
    rounds = 0
    with clock.watch(model) if clock is not None else nullcontext():
        while scheduler.busy:
            scheduler.tick()
            rounds += 1
    last = items[-1]
    assert isinstance(last, Done), last
    return last, rounds


@pytest.mark.parametrize("options", OPTIONS, ids=["greedy", "seeded"])
def test_the_text_is_the_same_in_fewer_rounds_where_the_answer_repeats_itself(
    options: Options, instance: Instance
) -> None:
    plain, rounds = answer(instance, options, None)
    guessed, fewer = answer(instance, options, ModelTime(SEVERAL))
    assert guessed.context == plain.context
    assert guessed.generated_tokens == plain.generated_tokens
    assert fewer < rounds


def test_wrong_guesses_cost_a_small_share_of_the_time(instance: Instance) -> None:
    # Whatever is guessed is wrong: nothing repeats at this temperature, and the same tokens are looked up all the time.
    options = Options(temperature=1.5, top_k=0, top_p=1.0, seed=5, num_predict=400)
    clock = ModelTime(several=3.0)
    with patch.object(prompt_lookup, "_GRAM", 1):
        done, _ = answer(instance, options, clock)
    plain, _ = answer(instance, options, None)
    assert done.context == plain.context
    assert clock.guessing > 0
    assert clock.now <= 1.03 * done.generated_tokens + 2 * 3.0  # and the guesses before there is a balance


def test_a_request_may_forbid_guesses(instance: Instance) -> None:
    clock = ModelTime(SEVERAL)
    done, _ = answer(instance, OPTIONS[0].model_copy(update={"draft_num_predict": 0}), clock)
    assert clock.guessing <= SEVERAL  # the prompt
    assert done.context == answer(instance, OPTIONS[0], None)[0].context
