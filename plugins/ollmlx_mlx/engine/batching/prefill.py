"""Prompts on their way into the cache: computed in slices of time, shared prefixes only once.

Prompts that arrive together are computed together, each a part of its own in every call, so that they are ready
together: one call with many rows is faster than many calls with few, and decoding some of them in between would make
the others wait.

Why not mlx-lm's `PromptProcessingBatch`: its chunks are a number of tokens for the whole batch, padded to the longest
prompt, and it does not share prefixes between prompts that arrive together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import mlx.core as mx

from ollmlx_mlx.engine.batching.forward import Forward
from ollmlx_mlx.engine.batching.generation import GenerationState
from ollmlx_mlx.engine.kv_cache import Layers, can_pad, can_trim, clone, extract_row, merge, padded_end
from ollmlx_mlx.engine.prefix_cache import PrefixCache

SLICE_SECONDS: Final = 0.25
ALONE: Final = 2.0
"""Slices that one chunk may take while no sequence decodes. A request can still be cancelled within a second."""
WHOLE: Final = 4.0
"""Slices that one call for several whole prompts may take, also while others decode: fewer wait for it than gain."""
_SMALLEST: Final = 16
_LARGEST: Final = 2048
_SHARE: Final = 32
"""Tokens that a shared prefix must save at least."""
_TAIL: Final = 24
"""Prompt tokens that the first step of decoding may compute on any device."""
_TOGETHER: Final = 4096
"""Cached and new tokens, with padding, of sequences that are computed together: merging their caches copies them."""
_PADDING: Final = 1024
"""Tokens of padding among them."""


class ChunkClock:
    """Measures the speed of prefill and returns the size of the next chunk.

    Sizes are powers of two times 16, and one and a half times these, so that a device that compiles or pads by shape
    sees few of them. `start`: tokens of the first chunk; `seconds`: the duration of a slice.
    """

    def __init__(self, start: int = 64, seconds: float = SLICE_SECONDS) -> None:
        self._seconds = seconds
        self._rate = start / seconds

    def size(self, slices: float = 1.0) -> int:
        """Return the tokens of a chunk that takes this number of slices."""
        wanted = self._rate * self._seconds * slices
        size = _SMALLEST
        while size * 2 <= wanted and size < _LARGEST:
            size *= 2
        # The next power of two would overrun the slice by up to a factor of two: take three quarters of it.
        return size + size // 2 if size * 1.5 <= wanted and size < _LARGEST else size

    def learn(self, tokens: int, seconds: float) -> None:
        """Note that a chunk of this many tokens took this long. Small chunks say little about speed and count less."""
        if tokens <= 0 or seconds <= 0:
            return
        weight = min(0.5, tokens / (2 * max(1.0, self._rate * self._seconds)))
        # Limit the growth: after the first chunks of a fast device the size would overshoot the slice.
        rate = min(tokens / seconds, 4 * self._rate)
        self._rate += weight * (rate - self._rate)


class PrefillQueue:
    """Sequences whose prompts are being computed, oldest first.

    `make` returns an empty cache. `borrow(sequence, length)` returns a copy of a decoding sequence's prefix, or None.
    `opens_whole`: the first step of decoding can take a whole chunk of a prompt without computing logits for all of it.
    """

    def __init__(
        self,
        forward: Forward,
        prefixes: PrefixCache,
        make: Callable[[], Layers],
        clock: ChunkClock,
        borrow: Callable[[GenerationState, int], Layers | None],
        *,
        opens_whole: bool,
    ) -> None:
        self._forward = forward
        self._prefixes = prefixes
        self._make = make
        self._clock = clock
        self._borrow = borrow
        self._opens_whole = opens_whole
        self._leaders: dict[GenerationState, tuple[GenerationState, int]] = {}
        self._turn = 0
        self.sequences: list[GenerationState] = []

    def admit(self, generation: GenerationState, running: Sequence[GenerationState]) -> None:
        """Start a prompt from the longest cached prefix, or let it wait for a prompt that is computing that prefix.

        `running`: the sequences of the decode batch.
        """
        if generation not in self.sequences:
            self.sequences.append(generation)
        tokens, most = generation.keys, len(generation.tokens) - 1
        cache, length = self._prefixes.fetch(generation.owner, tokens)
        for row in running:
            shared = min(generation.shared_with(row), most)
            if shared >= length + _SHARE and (borrowed := self._borrow(row, shared)) is not None:
                cache, length = borrowed, shared
        self._start(generation, cache, length)
        for leader in self.sequences:
            if leader is generation or leader in self._leaders or leader.cache is None:
                continue
            shared = min(generation.shared_with(leader), most, len(leader.tokens) - 1)
            least = max(generation.fed + _SHARE, generation.prompt.whole, leader.prompt.whole)
            if shared >= least and self._follow(generation, leader, shared):
                return

    def _start(self, generation: GenerationState, cache: Layers | None, length: int) -> None:
        usable = cache if length >= generation.prompt.whole else None
        generation.cache = usable if usable is not None else self._make()
        generation.fed = length if usable is not None else 0
        if not generation.generated:
            generation.cached = generation.fed
        if generation.prompt.boundary > generation.fed:
            # This cache cannot be shortened later: keep a copy at the point where the next turn branches off.
            generation.checkpoints.add(generation.prompt.boundary)
        generation.report_prefill()

    def _follow(self, generation: GenerationState, leader: GenerationState, shared: int) -> bool:
        assert leader.cache is not None
        if leader.fed >= shared:
            # The leader has passed this point, so it would never reach it.
            if leader.fed == shared or can_trim(leader.cache):
                self._start(generation, clone(leader.cache, leader.fed - shared), shared)
            return False
        self._leaders[generation] = (leader, shared)
        leader.checkpoints.add(shared)
        return True

    def slice(self, *, alone: bool) -> tuple[list[GenerationState], int]:
        """Compute for about a slice. Returns the sequences that may be decoded now, and the number of chunks computed.

        The sequences stay in `sequences` until `release`. `alone`: no sequence is being decoded. Then chunks are
        larger, and the last chunk of a lone prompt is left to the first step of decoding, which reads all weights
        anyway.
        """
        slices = ALONE if alone else 1.0
        least = self._tail(slices) if alone and len(self.sequences) == 1 else 0
        ready = [g for g in self.sequences if g not in self._leaders and self._is_ready(g, least)]
        chunks = 0
        patience = SLICE_SECONDS * slices
        until = time.monotonic() + patience
        while (generation := self._next(ready)) is not None:
            group = self._group(generation, ready, slices, least)
            self._compute(group)
            chunks += 1
            ready += [member for member in group if self._is_ready(member, least)]
            if time.monotonic() + 0.3 * patience > until:
                break
        return ready, chunks

    def release(self, ready: Sequence[GenerationState]) -> None:
        for generation in ready:
            self.sequences.remove(generation)

    def _tail(self, slices: float) -> int:
        """Return how many prompt tokens, without the last one, the first step of decoding may compute."""
        return max(_TAIL, int(1.25 * self._clock.size(slices)) - 1) if self._opens_whole else _TAIL

    def _is_ready(self, generation: GenerationState, least: int) -> bool:
        if generation.fed < generation.prompt.whole:
            return False
        return generation.remaining <= least and all(point <= generation.fed for point in generation.checkpoints)

    def _able(self, ready: Sequence[GenerationState]) -> list[GenerationState]:
        return [g for g in self.sequences if g not in self._leaders and g not in ready]

    def _next(self, ready: Sequence[GenerationState]) -> GenerationState | None:
        """Return the oldest and the shortest sequence in turns: a long prompt neither starves nor blocks the others."""
        able = self._able(ready)
        if not able:
            return None
        self._turn += 1
        return able[0] if self._turn % 2 else min(able, key=lambda g: g.remaining)

    def _group(
        self, first: GenerationState, ready: Sequence[GenerationState], slices: float, least: int
    ) -> dict[GenerationState, int]:
        """Return the sequences that are computed in one call with `first`, each with the size of its chunk."""
        assert first.cache is not None
        if first.fed < first.prompt.whole:
            return {first: max(first.prompt.whole, self._count(first, slices, least))}
        others = [g for g in self._able(ready) if g is not first] if can_pad(first.cache) else []
        others = [g for g in others if g.fed >= g.prompt.whole]
        others.sort(key=lambda g: g.remaining)
        group = self._gather(first, others, self._fits_whole)
        if first.fed == first.cached and self._fits_whole(group):
            return {member: self._wanted(member) for member in group}
        most = self._most(slices)
        group = self._gather(first, others, lambda members: self._fits_part(members, most))
        if len(group) == 1:
            return {first: self._count(first, slices, least)}
        longest = max(map(self._wanted, group))
        # Equal parts: a small rest would cost nearly as much as a whole chunk.
        parts = -(-longest * len(group) // most)
        return {member: min(self._wanted(member), -(-longest // parts)) for member in group}

    def _gather(
        self, first: GenerationState, others: Sequence[GenerationState], fits: Callable[[list[GenerationState]], bool]
    ) -> list[GenerationState]:
        group = [first]
        for other in others:
            if fits([*group, other]):
                group.append(other)
        return group

    def _most(self, slices: float) -> int:
        """Return the tokens of a call that takes little more than this number of slices."""
        return int(1.25 * self._clock.size(slices))

    def _fits_whole(self, group: list[GenerationState]) -> bool:
        """Return whether these sequences can be computed in one call. The more wait, the longer it may take."""
        longest = max(map(self._wanted, group))
        return longest * len(group) <= self._most(min(WHOLE, 1 + len(group))) and self._pads_little(group, longest)

    def _fits_part(self, group: list[GenerationState], most: int) -> bool:
        """Return whether these sequences can be computed in several calls with `most` tokens each."""
        wanted = [self._wanted(member) for member in group]
        width = min(most // len(group), max(wanted))
        return width >= min(_SMALLEST, *wanted) and self._pads_little(group, width)

    @staticmethod
    def _pads_little(group: list[GenerationState], width: int) -> bool:
        longest, fed = max(member.fed for member in group), sum(member.fed for member in group)
        return (longest + width) * len(group) <= _TOGETHER and longest * len(group) - fed <= _PADDING

    def _wanted(self, generation: GenerationState) -> int:
        """Return the tokens up to the next point where the cache of this sequence is needed."""
        ahead = [point - generation.fed for point in generation.checkpoints if point > generation.fed]
        return min([generation.remaining, *ahead])

    def _count(self, generation: GenerationState, slices: float, least: int) -> int:
        """Return the tokens of the next chunk of this sequence, alone in its call."""
        count = self._clock.size(slices)
        if generation.remaining <= 1.25 * count + least:
            # A small rest would cost nearly as much as a whole chunk.
            count = generation.remaining - least if generation.remaining > least else generation.remaining
        return min(count, self._wanted(generation))

    def _compute(self, group: dict[GenerationState, int]) -> None:
        for member, count in group.items():
            self._forward.prepare(member, count)
        started = time.monotonic()
        width = max(group.values())
        chunks = [member.tokens[member.fed : member.fed + count] for member, count in group.items()]
        caches = [member.cache for member in group if member.cache is not None]
        cache = caches[0] if len(group) == 1 else merge(caches)
        inputs = mx.array([chunk + [0] * (width - len(chunk)) for chunk in chunks])
        with padded_end(cache, list(group.values()), width):
            self._forward(inputs, cache, list(group))
        mx.eval([layer.state for layer in cache])
        if len(group) > 1:
            for row, member in enumerate(group):
                member.cache = extract_row(cache, row)
        self._clock.learn(width * len(group), time.monotonic() - started)
        for member, count in group.items():
            member.fed += count
            member.report_prefill()
            if member.fed in member.checkpoints:
                self._checkpoint(member)

    def _checkpoint(self, generation: GenerationState) -> None:
        assert generation.cache is not None
        generation.checkpoints.discard(generation.fed)
        followers = [f for f, (leader, at) in self._leaders.items() if leader is generation and at == generation.fed]
        for follower in followers:
            del self._leaders[follower]
            self._start(follower, clone(generation.cache), generation.fed)
        if generation.fed == generation.prompt.boundary or not can_trim(generation.cache):
            self._prefixes.insert(generation.owner, generation.keys[: generation.fed], clone(generation.cache))

    def remove(self, generation: GenerationState, running: Sequence[GenerationState]) -> None:
        """Remove a sequence (cancelled or failed). Sequences that waited for its prefix start from another one."""
        self.sequences.remove(generation)
        self._leaders.pop(generation, None)
        orphans = [follower for follower, (leader, _) in self._leaders.items() if leader is generation]
        for orphan in orphans:
            del self._leaders[orphan]
        for orphan in orphans:
            self.admit(orphan, running)
