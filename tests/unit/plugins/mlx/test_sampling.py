"""Sampling follows its rules row by row, and a row's neighbours change nothing."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ollmlx.types import Options
from ollmlx_mlx.engine.batching.generation import draw
from ollmlx_mlx.engine.batching.sampling import Penalizer, PenaltyRules, Sampler

pytestmark = pytest.mark.mlx

SHARES = (0.4, 0.3, 0.15, 0.1, 0.05)
LOGITS = [math.log(share) for share in SHARES]


def rules(**options: Any) -> Options:
    """Options that filter nothing, besides these."""
    return Options(**{"top_k": 0, "top_p": 1.0, "min_p": 0.0, **options})


def listed(array: mx.array) -> Any:
    """The array as Python numbers."""
    return array.tolist()


def possible(rule: Options) -> set[int]:
    sampler = Sampler([rule], len(LOGITS))
    return {listed(sampler(mx.array([LOGITS]), [step / 200]))[0] for step in range(200)}


@pytest.mark.parametrize(
    ("rule", "tokens"),
    [
        (rules(temperature=0), {0}),
        (rules(temperature=1), {0, 1, 2, 3, 4}),
        (rules(temperature=1, top_k=2), {0, 1}),
        (rules(temperature=1, top_k=1), {0}),
        (rules(temperature=1, top_p=0.5), {0, 1}),
        (rules(temperature=1, top_p=0.0), {0}),
        (rules(temperature=1, top_k=4, top_p=0.85), {0, 1, 2}),
        (rules(temperature=1, min_p=0.3), {0, 1, 2}),
        (rules(temperature=1, min_p=1.0), {0}),
        (rules(temperature=1, top_k=4, min_p=0.5), {0, 1}),
        (rules(temperature=1, typical_p=0.2), {1}),
        (rules(temperature=0.01), {0}),
    ],
)
def test_only_the_tokens_that_a_rule_leaves_are_drawn(rule: Options, tokens: set[int]) -> None:
    assert possible(rule) == tokens


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    sampler = Sampler([rules(temperature=1)], len(LOGITS))
    drawn = [listed(sampler(mx.array([LOGITS]), [step / 1000]))[0] for step in range(1000)]
    assert [drawn.count(token) for token in range(5)] == pytest.approx([s * 1000 for s in SHARES], abs=2)


RULES = st.builds(
    Options,
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    top_k=st.sampled_from([0, 1, 3, 40]),
    top_p=st.sampled_from([1.0, 0.9, 0.5]),
    min_p=st.sampled_from([0.0, 0.1]),
    typical_p=st.sampled_from([1.0, 0.7]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(RULES, min_size=2, max_size=5), st.integers(0, 1000))
def test_a_row_gets_the_same_token_alone_and_among_others(rows: list[Options], seed: int) -> None:
    logits = mx.random.normal((len(rows), 64), key=mx.random.key(seed))
    draws = [draw(seed, row) for row in range(len(rows))]
    batch = listed(Sampler(rows, 64)(logits, draws))
    alone = [listed(Sampler([rule], 64)(logits[i : i + 1], draws[i : i + 1]))[0] for i, rule in enumerate(rows)]
    assert batch == alone


def test_numbers_of_a_seed_are_its_own_and_repeat() -> None:
    first = [draw(1, position) for position in range(100)]
    assert first == [draw(1, position) for position in range(100)]
    assert first != [draw(2, position) for position in range(100)]
    assert all(0 <= number < 1 for number in first)
    assert draw(1 << 80, 3) == draw(0, 3)


def penalised(options: Options, past: list[int], logits: list[float]) -> list[float]:
    rules = PenaltyRules.of(options, context=32, vocabulary=len(logits))
    *before, newest = past
    found = listed(Penalizer([rules], [before])(mx.array([logits]), mx.array([newest])))
    return [round(float(value), 4) for value in found[0]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(), [2.0, -2.0, 1.0, 0.0]),
        (Options(repeat_penalty=2.0), [1.0, -4.0, 1.0, 0.0]),
        (Options(presence_penalty=0.5), [1.5, -2.5, 1.0, 0.0]),
        (Options(frequency_penalty=0.5), [1.0, -2.5, 1.0, 0.0]),
        (Options(frequency_penalty=0.5, repeat_last_n=1), [1.5, -2.0, 1.0, 0.0]),
        (Options(repeat_penalty=2.0, repeat_last_n=0), [2.0, -2.0, 1.0, 0.0]),
        (Options(repeat_penalty=2.0, repeat_last_n=-1), [1.0, -4.0, 1.0, 0.0]),
        (Options(logit_bias={2: -10.0, 99: 5.0}), [2.0, -2.0, -9.0, 0.0]),
    ],
)
def test_penalties_count_prompt_and_answer_within_their_window(options: Options, expected: list[float]) -> None:
    assert penalised(options, [0, 1, 0], [2.0, -2.0, 1.0, 0.0]) == expected


def test_penalties_of_one_row_leave_the_others_alone() -> None:
    rules = [PenaltyRules(), PenaltyRules(repeat=2.0), PenaltyRules(bias=((0, 1.0),))]
    found = listed(Penalizer(rules, [[], [1], []])(mx.full((3, 3), 4.0), mx.array([2, 2, 2])))
    assert found == [[4, 4, 4], [4, 2, 2], [5, 4, 4]]
