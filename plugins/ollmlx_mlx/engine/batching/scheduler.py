"""The scheduler of the batch: one step of decoding, then one slice of prefill, and so on."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final

from ollmlx.errors import OllmlxError, OutOfMemory, RunnerFailed
from ollmlx_mlx.engine.batching.decode import DecodeBatch, OutputHead
from ollmlx_mlx.engine.batching.drafting import Drafter
from ollmlx_mlx.engine.batching.generation import GenerationState
from ollmlx_mlx.engine.batching.prefill import ChunkClock, PrefillQueue
from ollmlx_mlx.engine.kv_cache import Layers
from ollmlx_mlx.engine.load import is_out_of_memory
from ollmlx_mlx.engine.prefix_cache import PrefixCache

_log = logging.getLogger(__name__)
_FAILURES: Final = 3
"""Failures in a row after which the engine is broken."""


class EngineBroken(Exception):
    """Computing failed several times in a row. The engine reports itself as failed."""


class BatchScheduler:
    """Takes requests through waiting, prefill and decoding. `width`: sequences at once. Used on the compute thread.

    `progress` grows with every chunk and step, the totals count tokens. Other threads may read these numbers.
    """

    def __init__(
        self,
        model: Any,
        prefixes: PrefixCache,
        make: Callable[[], Layers],
        *,
        width: int,
        clock: ChunkClock,
        drafter: Drafter | None = None,
        launch_blocks: bool = False,
    ) -> None:
        self._waiting: deque[GenerationState] = deque()
        head = OutputHead(model)
        self._batch = DecodeBatch(model, head, drafter, launch_blocks=launch_blocks)
        self._prefill = PrefillQueue(model, prefixes, make, clock, self._batch.prefix, opens_whole=head.narrows)
        self._prefixes = prefixes
        self._width = width
        self._failures = 0
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

    def submit(self, generation: GenerationState) -> None:
        self._waiting.append(generation)

    def tick(self) -> None:
        """Run one round. Raises EngineBroken after several failures in a row."""
        self._remove_cancelled()
        self._guarded(self._decode, self._clear_batch)
        self._admit()
        if self._prefill.sequences:
            self._guarded(self._prefill_slice, self._clear_prefill)
        for generation in (*self._batch.rows, *self._prefill.sequences):
            generation.flush()

    def fail_all(self, error: OllmlxError) -> None:
        for generation in (*self._waiting, *self._prefill.sequences, *self._batch.rows):
            generation.fail(error)
        self._waiting.clear()
        self._prefill.sequences.clear()
        self._batch.clear()

    def _decode(self) -> None:
        if not self._batch.rows:
            return
        self._batch.step()
        self.progress += 1
        if self._prefill.sequences or self._waiting:
            # A slice of prefill comes next, which takes longer than reading the launched tokens.
            self._batch.flush()
        self._end_finished()

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
            self._prefixes.insert(generation.tokens[: generation.fed], generation.cache)
        generation.cache = None

    def _admit(self) -> None:
        while self._waiting and self.active < self._width:
            generation = self._waiting.popleft()
            self._prefill.admit(generation, self._batch.rows)
            self.prompt_tokens += len(generation.prompt.tokens)

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
