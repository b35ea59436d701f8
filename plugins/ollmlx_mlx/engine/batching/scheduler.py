"""The scheduler of the batch: one step of decoding, then one slice of prefill, and so on.

All sequences share a pool of tokens. A request is admitted when its prompt and a reserve fit. When the pool runs dry,
the youngest sequence is put back in the queue, its prefix cached; later it goes on, and its text is the same.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final

from ollmlx.errors import OllmlxError, OutOfMemory, RunnerFailed
from ollmlx_mlx.engine.batching.batches import DecodeBatches
from ollmlx_mlx.engine.batching.decode import DecodeBatch, OutputHead
from ollmlx_mlx.engine.batching.drafting import Drafter
from ollmlx_mlx.engine.batching.forward import Forward, TextForward
from ollmlx_mlx.engine.batching.generation import GenerationState
from ollmlx_mlx.engine.batching.prefill import ChunkClock, PrefillQueue
from ollmlx_mlx.engine.batching.prompt_lookup import PromptLookup
from ollmlx_mlx.engine.device import is_out_of_memory
from ollmlx_mlx.engine.kv_cache import Layers
from ollmlx_mlx.engine.prefix_cache import PrefixCache

_log = logging.getLogger(__name__)
_FAILURES: Final = 3
"""Failures in a row after which the engine is broken."""
_RESERVE: Final = 256
"""Tokens of its answer for which a request must find room when it is admitted."""
_PADDING: Final = 2048
"""Tokens that the caches of one batch of different lengths may waste."""
_SMALL: Final = 8
"""Both are at most this fraction of the pool."""


class EngineBroken(Exception):
    """Computing failed several times in a row. The engine reports itself as failed."""


class BatchScheduler:
    """Takes requests through waiting, prefill and decoding. Used on the compute thread.

    `width`: sequences at once; `pool`: tokens that all of them together may have in their caches.

    `progress` grows with every chunk and step, `put_back` counts requests, the other numbers tokens. Other threads may
    read them; `used_now` is what `used` was after the last round.
    """

    def __init__(
        self,
        model: Any,
        prefixes: PrefixCache,
        make: Callable[[], Layers],
        *,
        width: int,
        pool: int,
        clock: ChunkClock,
        drafter: Drafter | PromptLookup | None = None,
        launch_blocks: bool = False,
        forward: Forward | None = None,
    ) -> None:
        self._waiting: deque[GenerationState] = deque()
        head, forward = OutputHead(model), forward or TextForward(model)
        self._batch = DecodeBatches(
            lambda: DecodeBatch(forward, head, drafter, launch_blocks=launch_blocks), min(_PADDING, pool // _SMALL)
        )
        self._prefill = PrefillQueue(forward, prefixes, make, clock, self._batch.prefix, opens_whole=head.narrows)
        self._prefixes = prefixes
        self._width = width
        self._reserve = min(_RESERVE, pool // _SMALL)
        self._failures = 0
        self._submitted = 0
        self.pool = pool
        self.used_now = 0
        self.put_back = 0
        self.progress = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generated_tokens = 0

    @property
    def busy(self) -> bool:
        """Return whether any request is waiting or being computed."""
        return bool(self._waiting or self._batch.rows or self._prefill.sequences)

    @property
    def active(self) -> int:
        """Sequences being prefilled or decoded."""
        return len(self._batch.rows) + len(self._prefill.sequences)

    @property
    def queued(self) -> int:
        """Sequences that wait for a slot."""
        return len(self._waiting)

    @property
    def used(self) -> int:
        """Tokens of the pool in use: decoding sequences with their padding, and the prompts that are computed."""
        return self._batch.tokens + sum(len(generation.tokens) for generation in self._prefill.sequences)

    def submit(self, generation: GenerationState) -> None:
        """Queue a request."""
        self._submitted += 1
        generation.arrival = self._submitted
        self._waiting.append(generation)

    def tick(self) -> None:
        """Run one round. Raises EngineBroken after several failures in a row."""
        self._remove_cancelled()
        self._guarded(self._decode, self._clear_batch)
        self._admit()
        if self._prefill.sequences:
            self._guarded(self._prefill_slice, self._clear_prefill)
        self.used_now = self.used
        for generation in (*self._batch.rows, *self._prefill.sequences):
            generation.flush()

    def fail_all(self, error: OllmlxError) -> None:
        for generation in (*self._waiting, *self._prefill.sequences, *self._batch.rows):
            generation.fail(error)
        self._waiting.clear()
        self._prefill.sequences.clear()
        self._batch.clear()

    def _decode(self) -> None:
        if self._short:
            self._make_room()
        if not self._batch.rows:
            return
        self._batch.step()
        self.progress += 1
        if self._prefill.sequences or self._waiting:
            # A slice of prefill comes next, which takes longer than reading the launched tokens.
            self._batch.flush()
        self._end_finished()

    @property
    def _short(self) -> bool:
        """Return whether the pool has no room for another step of decoding."""
        return self.used + len(self._batch.rows) > self.pool and self.active > 1

    def _make_room(self) -> None:
        """Put the youngest sequences back in the queue until the others can go on. The oldest one always can."""
        self._batch.flush()
        self._end_finished()
        while self._short:
            self._put_back(max((*self._batch.rows, *self._prefill.sequences), key=lambda one: one.arrival))

    def _put_back(self, generation: GenerationState) -> None:
        if generation in self._prefill.sequences:
            self._prefill.remove(generation, self._batch.rows)
        else:
            self._batch.filter_out([generation], keep_caches=True)
        self._keep_prefix(generation)
        generation.restart()
        self._waiting.appendleft(generation)
        self.put_back += 1
        _log.debug("the pool of %d tokens is full: a request of %d waits", self.pool, len(generation.tokens))

    def _fits(self, generation: GenerationState) -> bool:
        """Return whether the pool has room for a request. One that is alone can have all of it."""
        reserve = min(self._reserve, max(0, generation.limit - generation.generated))
        return not self.active or self.used + len(generation.tokens) + reserve <= self.pool

    def _end_finished(self) -> None:
        done = [row for row in self._batch.rows if row.finished is not None]
        self.generated_tokens += sum(row.generated for row in done)
        if done:
            for row in done:
                row.end()
            self._filter_out(done)
        for row in [row for row in self._batch.rows if row.shifting]:
            self._batch.filter_out([row], keep_caches=False)
            row.drop_oldest()
            self._prefill.admit(row, [])

    def _filter_out(self, rows: Collection[GenerationState]) -> None:
        self._batch.filter_out(rows, keep_caches=True)
        for row in rows:
            self._keep_prefix(row)

    def _keep_prefix(self, generation: GenerationState) -> None:
        if generation.cache is not None and generation.fed:
            self._prefixes.insert(generation.owner, generation.keys[: generation.fed], generation.cache)
        generation.cache = None

    def _admit(self) -> None:
        while self._waiting and self.active < self._width and self._fits(self._waiting[0]):
            generation = self._waiting.popleft()
            self._prefill.admit(generation, self._batch.rows)
            self.prompt_tokens += len(generation.prompt.tokens) if not generation.admitted else 0
            generation.admitted = True

    def _prefill_slice(self) -> None:
        ready, chunks = self._prefill.slice(alone=not self._batch.rows)
        self.progress += chunks
        ready_to_decode = []
        for generation in ready:
            self.cached_tokens += generation.cached if not generation.generated else 0
            if generation.limit <= 0:
                generation.finished = "length"
                generation.end()
                self._keep_prefix(generation)
            else:
                ready_to_decode.append(generation)
        if ready_to_decode:
            self._batch.extend(ready_to_decode)
        # Last: when the batch cannot take them, they still fail with the prefill.
        self._prefill.release(ready)

    def _remove_cancelled(self) -> None:
        for generation in [g for g in self._waiting if g.cancelled]:
            self._waiting.remove(generation)
        for generation in [g for g in self._prefill.sequences if g.cancelled]:
            self._prefill.remove(generation, self._batch.rows)
            self._keep_prefix(generation)
        cancelled = [row for row in self._batch.rows if row.cancelled]
        if cancelled:
            self.generated_tokens += sum(row.generated for row in cancelled)
            self._filter_out(cancelled)

    def _clear_batch(self) -> list[GenerationState]:
        sequences = self._batch.rows
        self._batch.clear()
        return sequences

    def _clear_prefill(self) -> list[GenerationState]:
        sequences = list(self._prefill.sequences)
        for generation in sequences:
            generation.cache = None
            self._prefill.remove(generation, [])
        return sequences

    def _guarded(self, work: Callable[[], None], clear: Callable[[], list[GenerationState]]) -> None:
        """Run a part of the round. If it fails, the requests that `clear` returns fail, and the others go on."""
        try:
            work()
        except Exception as error:
            _log.exception("computing failed")
            failure = explain(error)
            for generation in clear():
                generation.fail(failure)
            self._failures += 1
            if self._failures >= _FAILURES:
                raise EngineBroken(failure.message) from error
        else:
            self._failures = 0 if self._batch.rows else self._failures


def explain(error: Exception) -> OllmlxError:
    """Return the error of a request for a failure of the device."""
    if isinstance(error, OllmlxError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(f"the device ran out of memory while computing: {error}")
    return RunnerFailed(f"the engine failed while computing: {type(error).__name__}: {error}")
