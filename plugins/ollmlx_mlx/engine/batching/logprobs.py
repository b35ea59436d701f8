"""Log-probabilities of sampled tokens and their best alternatives, for the rows that ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from ollmlx.types import TokenLogprob

if TYPE_CHECKING:
    from ollmlx_mlx.engine.batching.generation import GenerationState


class PendingLogprobs:
    """The log-probabilities of one step: of the sampled tokens [rows] and of the best ones [rows, width].

    They are natural logarithms of the model's own distribution, before penalties, bias, grammar and filters.
    """

    def __init__(self, chosen: mx.array, ids: mx.array, values: mx.array) -> None:
        self._chosen = chosen
        self._ids = ids
        self._values = values
        self._read: tuple[Any, Any, Any] | None = None

    @staticmethod
    def of_step(logits: mx.array, sampled: mx.array, wanted: Sequence[int | None]) -> PendingLogprobs | None:
        """Return those of a step with logits [rows, vocabulary]; None when no row asks."""
        counts = [count for count in wanted if count is not None]
        if not counts:
            return None
        logits = logits.astype(mx.float32)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        chosen = mx.take_along_axis(logprobs, sampled[:, None], axis=-1)[:, 0]
        width = max(1, min(max(counts), logits.shape[-1] - 1))
        ids = mx.argpartition(-logprobs, kth=width - 1, axis=-1)[:, :width]
        return PendingLogprobs(chosen, ids, mx.take_along_axis(logprobs, ids, axis=-1))

    @property
    def arrays(self) -> tuple[mx.array, mx.array, mx.array]:
        """The arrays that the device still has to compute."""
        return self._chosen, self._ids, self._values

    def kept(self, rows: Sequence[int]) -> PendingLogprobs:
        """Return the values of these rows only."""
        index = mx.array(list(rows), dtype=mx.int32)
        return PendingLogprobs(self._chosen[index], self._ids[index], self._values[index])

    def widened(self, rows: int) -> PendingLogprobs:
        """Return the values with more rows at the end, which are never read."""
        pad = [(0, rows), (0, 0)]
        return PendingLogprobs(mx.pad(self._chosen, [(0, rows)]), mx.pad(self._ids, pad), mx.pad(self._values, pad))

    def of(self, row: int, token: int, generation: GenerationState) -> TokenLogprob | None:
        """Return a row's sampled token with its alternatives, best first; None when the row asked for none."""
        if generation.top_logprobs is None or generation.spell is None:
            return None
        if self._read is None:
            mx.eval(*self.arrays)
            read: Any = (self._chosen.tolist(), self._ids.tolist(), self._values.tolist())
            self._read = read
        chosen, ids, values = self._read
        best = sorted(zip(values[row], ids[row], strict=True), reverse=True)[: generation.top_logprobs]
        spell = generation.spell
        return TokenLogprob(
            token=spell([token]),
            logprob=chosen[row],
            id=token,
            top=tuple(TokenLogprob(token=spell([id_]), logprob=value, id=id_) for value, id_ in best),
        )
