"""All sequences share a pool of tokens: who does not fit waits or is put back, and gets the text that it gets alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
from tests.engine_requests import config_for
from tests.unit.plugins.mlx.test_scheduler import PROMPTS, Session, done

from ollmlx.types import Options
from ollmlx_mlx.engine.batching import prefill
from ollmlx_mlx.engine.instance import Instance, build

pytestmark = pytest.mark.mlx

GREEDY = Options(temperature=0, num_predict=40)
SEEDED = Options(temperature=1.5, top_k=0, top_p=1.0, seed=7, num_predict=40, repeat_penalty=1.2)


@pytest.fixture(autouse=True)
def _a_chunk_at_a_time() -> Iterator[None]:
    with patch.object(prefill, "SLICE_SECONDS", 0.0):
        yield


@pytest.fixture(scope="module")
def instance(architecture: Path) -> Instance:
    return build(config_for(architecture), lambda _: None)


def prompt_sizes(instance: Instance) -> list[int]:
    return [len(instance.prompts.encode_text(prompt)) for prompt in PROMPTS]


def alone(instance: Instance, prompt: str, options: Options) -> Sequence[int]:
    session = Session(instance)
    session.submit(prompt, options)
    session.finish()
    return done(session.asked[0][2]).context


# One whose cache can be shortened, one whose cache cannot, and one with a sliding window.
@pytest.mark.parametrize("architecture", ["llama", "mamba2", "gemma3"], indirect=True, scope="module")
@pytest.mark.parametrize("options", [GREEDY, SEEDED], ids=["greedy", "seeded"])
@pytest.mark.parametrize("cache", [0, 1 << 24], ids=["prefixes not kept", "prefixes kept"])
def test_a_request_that_is_put_back_goes_on_with_the_text_it_has_alone(
    cache: int, options: Options, instance: Instance
) -> None:
    pool = max(prompt_sizes(instance)) + 41
    session = Session(instance, width=5, chunk=64, pool=pool, cache=cache)
    for prompt in PROMPTS[::-1]:
        session.submit(prompt, options)
    most = 0
    while session.scheduler.busy:
        session.scheduler.tick()
        most = max(most, session.scheduler.used)
    assert session.scheduler.put_back > 0
    assert most <= pool
    for prompt, _, items in session.asked:
        assert done(items).context == alone(instance, prompt, options)
        assert done(items).generated_tokens <= 40


@pytest.mark.parametrize("architecture", ["llama"], indirect=True, scope="module")
def test_many_more_requests_than_fit_are_all_served_in_their_order(instance: Instance) -> None:
    pool = sum(sorted(prompt_sizes(instance))[-2:]) + 60
    session = Session(instance, width=16, chunk=64, pool=pool)
    for number in range(32):
        session.submit(f"{number} {PROMPTS[number % 3]}", Options(temperature=0, num_predict=4))
    session.finish()
    assert all(done(items).reason == "length" for _, _, items in session.asked)
    assert session.scheduler.used == 0


@pytest.mark.parametrize("architecture", ["llama"], indirect=True, scope="module")
def test_a_client_that_leaves_while_its_request_is_put_back_leaves_nothing_behind(instance: Instance) -> None:
    pool = max(prompt_sizes(instance)) + 41
    session = Session(instance, width=5, chunk=64, pool=pool, cache=0)
    for prompt in PROMPTS[::-1]:
        session.submit(prompt, GREEDY)
    while not session.scheduler.put_back:
        session.scheduler.tick()
    waiting = [generation for _, generation, _ in session.asked if generation.generated and generation.cache is None]
    left = [generation for generation in waiting if generation.fed == 0]
    assert left
    for generation in left:
        generation.cancelled = True
    session.finish()
    assert (session.scheduler.used, session.scheduler.queued, session.scheduler.active) == (0, 0, 0)
    assert all(generation.cache is None for generation in left)
    for prompt, generation, items in session.asked:
        if not generation.cancelled:
            assert done(items).context == alone(instance, prompt, GREEDY)


@pytest.mark.parametrize("architecture", ["llama"], indirect=True, scope="module")
def test_a_long_sequence_does_not_make_the_caches_of_short_ones_as_long_as_itself(instance: Instance) -> None:
    sizes = prompt_sizes(instance)
    session = Session(instance, width=5, chunk=64, pool=8 * sum(sizes))
    for _ in range(3):
        session.submit(PROMPTS[4], GREEDY)
    session.submit(PROMPTS[3] * 4, GREEDY)
    most = 0
    while session.scheduler.busy:
        session.scheduler.tick()
        most = max(most, session.scheduler.used)
    assert most < 2 * len(session.asked[3][1].prompt.tokens)
    for prompt, _, items in session.asked:
        assert done(items).context == alone(instance, prompt, GREEDY)
