"""Every request gets the tokens it gets alone, however requests come and go; slices take about equally long."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.engine_requests import config_for

from ollmlx.errors import OutOfMemory
from ollmlx.types import Done, GenerateRequest, Options
from ollmlx_mlx.engine.batching import prefill
from ollmlx_mlx.engine.batching.compute import ComputeThread
from ollmlx_mlx.engine.batching.generation import GenerationState, Item
from ollmlx_mlx.engine.batching.prefill import ChunkClock
from ollmlx_mlx.engine.batching.scheduler import BatchScheduler
from ollmlx_mlx.engine.engine import make_generation
from ollmlx_mlx.engine.instance import Instance, build
from ollmlx_mlx.engine.kv_cache import make_layers
from ollmlx_mlx.engine.prefix_cache import PrefixCache

pytestmark = pytest.mark.mlx

_SHARED = "the quick brown fox jumps over the lazy dog and then it sleeps " * 2
PROMPTS = [
    _SHARED + "one of the many things that people say",
    _SHARED + "two or three words and not much more than that",
    _SHARED[:90] + " another way",
    _SHARED + _SHARED + "three",
    "nothing in common",
]


class SteadyClock(ChunkClock):
    """Chunks of so many tokens, whatever they take."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._size = size

    def size(self, slices: float = 1.0) -> int:
        return self._size


class Session:
    """A scheduler with a prefix cache of its own, and its requests."""

    def __init__(
        self, instance: Instance, width: int = 3, chunk: int = 16, pool: int = 1 << 16, cache: int = 1 << 24
    ) -> None:
        self._instance = instance
        model = instance.loaded.model
        self.scheduler = BatchScheduler(
            model, PrefixCache(cache), lambda: make_layers(model), width=width, pool=pool, clock=SteadyClock(chunk)
        )
        self.asked: list[tuple[str, GenerationState, list[Item]]] = []

    def submit(self, prompt: str, options: Options | None = None) -> None:
        items: list[Item] = []
        request = GenerateRequest(prompt=prompt, options=options or Options(temperature=0, num_predict=6))
        generation = make_generation(self._instance, request, items.extend)
        self.asked.append((prompt, generation, items))
        self.scheduler.submit(generation)

    def cancel(self, which: int) -> None:
        if self.asked:
            self.asked[which % len(self.asked)][1].cancelled = True

    def finish(self) -> None:
        for _ in range(500):
            if not self.scheduler.busy:
                return
            self.scheduler.tick()
        raise AssertionError(f"{self.scheduler.active} active, {self.scheduler.queued} queued, and nothing moves")


@pytest.fixture(autouse=True)
def _a_chunk_at_a_time() -> Iterator[None]:
    with patch.object(prefill, "SLICE_SECONDS", 0.0):
        yield


@pytest.fixture(scope="module")
def instance(architecture: Path) -> Instance:
    return build(config_for(architecture), lambda _: None)


@pytest.fixture(scope="module")
def alone(instance: Instance) -> dict[str, Sequence[int]]:
    answers: dict[str, Sequence[int]] = {}
    for prompt in PROMPTS:
        session = Session(instance)
        session.submit(prompt)
        session.finish()
        answers[prompt] = done(session.asked[0][2]).context
    return answers


def done(items: Sequence[Item]) -> Done:
    last = items[-1]
    assert isinstance(last, Done), last
    return last


_steps = some.one_of(
    some.tuples(some.just("submit"), some.integers(0, len(PROMPTS) - 1)),
    some.tuples(some.just("cancel"), some.integers(0, 10)),
    some.tuples(some.just("tick"), some.integers(1, 4)),
)


# One whose cache can be shortened, one whose cache cannot, and one with a sliding window.
@pytest.mark.parametrize("architecture", ["llama", "mamba2", "gemma3"], indirect=True, scope="module")
@settings(max_examples=25, deadline=None)
@given(steps=some.lists(_steps, max_size=14), chunk=some.sampled_from([16, 64]))
def test_every_request_ends_with_the_tokens_it_has_alone_however_others_come_and_go(
    steps: list[tuple[str, int]], chunk: int, instance: Instance, alone: dict[str, Sequence[int]]
) -> None:
    session = Session(instance, chunk=chunk)
    for step, number in steps:
        if step == "submit":
            session.submit(PROMPTS[number])
        elif step == "cancel":
            session.cancel(number)
        else:
            for _ in range(number):
                session.scheduler.tick()
    session.finish()
    for prompt, generation, items in session.asked:
        if not generation.cancelled:
            assert done(items).context == alone[prompt]


@pytest.mark.parametrize("architecture", ["llama"], indirect=True, scope="module")
@pytest.mark.parametrize("ticks", range(14))
def test_a_sibling_may_arrive_at_any_point_of_the_prompt_it_shares(
    ticks: int, instance: Instance, alone: dict[str, Sequence[int]]
) -> None:
    session = Session(instance)
    session.submit(PROMPTS[0])
    session.submit(PROMPTS[1])
    for _ in range(ticks):
        session.scheduler.tick()
    session.submit(PROMPTS[1])
    session.finish()
    for prompt, _, items in session.asked:
        assert done(items).context == alone[prompt]


def first_tokens(session: Session) -> list[int]:
    """The round in which each request got its first token."""
    found: dict[int, int] = {}
    for round_ in range(500):
        for index, (_, generation, _) in enumerate(session.asked):
            if generation.generated:
                found.setdefault(index, round_)
        if len(found) == len(session.asked):
            return [found[index] for index in range(len(session.asked))]
        session.scheduler.tick()
    raise AssertionError(f"only {len(found)} have begun")


@pytest.mark.parametrize("architecture", ["llama"], indirect=True, scope="module")
def test_short_prompts_that_arrive_together_are_ready_together(instance: Instance) -> None:
    together, apart = Session(instance, width=4, chunk=64), Session(instance, width=1, chunk=64)
    for session in (together, apart):
        for name in ("one", "two", "three", "four"):
            session.submit(f"{name} prompt that shares no beginning with the others")
    rounds = first_tokens(together)
    assert len(set(rounds)) == 1
    assert rounds[-1] < first_tokens(apart)[-1]


@pytest.mark.parametrize("architecture", ["llama"], indirect=True, scope="module")
def test_a_long_prompt_and_short_ones_take_turns(instance: Instance) -> None:
    session = Session(instance, width=3, chunk=32)
    session.submit(PROMPTS[3] * 2)
    for name in ("one", "two"):
        session.submit(f"{name} short")
    long, *short = first_tokens(session)
    assert max(short) < long


@pytest.mark.parametrize("architecture", ["llama"], indirect=True, scope="module")
def test_a_sequence_that_cannot_join_the_batch_fails(instance: Instance, alone: dict[str, Sequence[int]]) -> None:
    session = Session(instance)
    short, long = PROMPTS[4], PROMPTS[0]
    session.submit(short)
    session.submit(long)
    with patch("ollmlx_mlx.engine.batching.decode.merge", side_effect=RuntimeError("[malloc] unable to allocate")):
        session.finish()
    assert isinstance(session.asked[1][2][-1], OutOfMemory)
    assert done(session.asked[0][2]).context == alone[short]


@pytest.mark.parametrize("speed", [30, 150, 1000, 6000, 100_000])
def test_the_size_settles_where_a_chunk_takes_about_the_slice(speed: int) -> None:
    clock = ChunkClock(start=64, seconds=0.25)
    for _ in range(60):
        size = clock.size()
        clock.learn(size, size / speed)
    assert clock.size() <= max(16, speed * 0.25 * 1.01)
    assert clock.size() >= min(2048, speed * 0.25 * 0.6) or clock.size() == 16


@pytest.mark.parametrize(
    ("start", "tokens", "seconds", "least", "most"), [(64, 64, 1e-4, 64, 256), (512, 1, 0.2, 384, 512)]
)
def test_neither_a_fast_first_chunk_nor_a_tiny_one_changes_the_size_much(
    start: int, tokens: int, seconds: float, least: int, most: int
) -> None:
    clock = ChunkClock(start=start, seconds=0.25)
    clock.learn(tokens, seconds)
    assert least <= clock.size() <= most


GREEDY = Options(temperature=0, num_predict=40)
SEEDED = Options(temperature=1.5, top_k=0, top_p=1.0, seed=7, num_predict=40, repeat_penalty=1.2)


def prompt_sizes(instance: Instance) -> list[int]:
    return [len(instance.prompts.encode_text(prompt)) for prompt in PROMPTS]


def tokens_alone(instance: Instance, prompt: str, options: Options) -> Sequence[int]:
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
        assert done(items).context == tokens_alone(instance, prompt, options)
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
            assert done(items).context == tokens_alone(instance, prompt, GREEDY)


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
        assert done(items).context == tokens_alone(instance, prompt, GREEDY)


def test_a_thread_without_work_tidies_up_once_after_each_time_that_it_worked() -> None:
    tidied, times = threading.Semaphore(0), []

    def tidy() -> None:
        times.append(threading.current_thread().name)
        tidied.release()

    compute = ComputeThread(tidy=tidy, idle=0.01)
    try:
        for number in range(2):
            assert compute.call(functools.partial(int, number)).result(30) == number
            assert tidied.acquire(timeout=30)
    finally:
        compute.close(30)
    assert times == ["compute", "compute"]


def test_a_thread_that_cannot_tidy_up_still_works() -> None:
    tried = threading.Event()

    def fail() -> None:
        tried.set()
        raise MemoryError

    compute = ComputeThread(tidy=fail, idle=0.01)
    try:
        compute.call(lambda: None).result(30)
        assert tried.wait(30)
        assert compute.call(lambda: "works").result(30) == "works"
    finally:
        compute.close(30)
