"""The sequences that are being decoded, in batches of similar length.

A batch is as long as its longest sequence for all of them: the others are padded. A sequence that would waste much
memory so decodes in a batch of its own, one more model call in each step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ollmlx_mlx.engine.batching.decode import DecodeBatch
from ollmlx_mlx.engine.batching.generation import GenerationState
from ollmlx_mlx.engine.kv_cache import Layers


class DecodeBatches:
    """Used like one batch. `make` returns an empty batch; `padding`: the most tokens that one of them may waste."""

    def __init__(self, make: Callable[[], DecodeBatch], padding: int) -> None:
        self._make = make
        self._padding = padding
        self._batches: list[DecodeBatch] = []

    @property
    def rows(self) -> list[GenerationState]:
        """The sequences of all batches."""
        return [row for batch in self._batches for row in batch.rows]

    @property
    def tokens(self) -> int:
        """Tokens for which the caches of all batches have room, padding included."""
        return sum(len(batch.rows) * max(row.fed for row in batch.rows) for batch in self._batches)

    def clear(self) -> None:
        """Remove everything, also after a failure."""
        self._batches.clear()

    def extend(self, added: Sequence[GenerationState]) -> None:
        """Add sequences, each to the first batch that it suits."""
        joining: dict[DecodeBatch, list[GenerationState]] = {batch: [] for batch in self._batches}
        for generation in added:
            suited = (batch for batch, new in joining.items() if self._suits(generation, [*batch.rows, *new]))
            batch = next(suited, None) or self._make()
            joining.setdefault(batch, []).append(generation)
        for batch, new in joining.items():
            if new:
                batch.extend(new)
            if batch not in self._batches:
                self._batches.append(batch)

    def filter_out(self, leaving: Collection[GenerationState], *, keep_caches: bool) -> None:
        """Remove sequences. With `keep_caches` each gets its own cache back, of its first `fed` tokens."""
        for batch in self._batches:
            batch.filter_out(leaving, keep_caches=keep_caches)
        self._batches = [batch for batch in self._batches if batch.rows]

    def prefix(self, row: GenerationState, length: int) -> Layers | None:
        """Return a copy of a sequence's cache up to `length` tokens, None where its kind cannot be trimmed."""
        return next(batch for batch in self._batches if row in batch.rows).prefix(row, length)

    def step(self) -> None:
        """Launch the next token of every row, then read the tokens that were launched before."""
        for batch in self._batches:
            batch.step()

    def flush(self) -> None:
        """Read the tokens that were launched and not read yet."""
        for batch in self._batches:
            batch.flush()

    def _suits(self, generation: GenerationState, rows: Sequence[GenerationState]) -> bool:
        lengths = [generation.fed, *(row.fed for row in rows)]
        return max(lengths) * len(lengths) - sum(lengths) <= self._padding
