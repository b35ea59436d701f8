"""Speculative decoding for a lone request: a small model guesses some tokens, the model checks them in one step.

Why not mlx-lm's `speculative_generate_step`: it owns its loop, and a request here may have company at the next step.
A guess counts only where the model itself, with the request's own rules and random numbers, would have chosen it: the
text is the same with and without a draft model.
"""

from __future__ import annotations

from typing import Any, Final

import mlx.core as mx

from ollmlx_mlx.engine.batching.generation import GenerationState, draw
from ollmlx_mlx.engine.batching.sampling import Sampler
from ollmlx_mlx.engine.cache.layers import Layers, can_trim, make_layers, shorten

_CATCH_UP: Final = 256


class Drafter:
    """Guesses for one model. `draft`: the small model, of the same vocabulary."""

    def __init__(self, model: Any, draft: Any) -> None:
        self._model = model
        self._draft = draft

    def suits(self, row: GenerationState, cache: Layers) -> bool:
        """Whether this request can be decoded in leaps: nothing in it depends on each single token."""
        plain = row.constraint is None and row.top_logprobs is None
        plain = plain and not row.penalties.count and not row.penalties.bias
        return plain and row.drafts > 0 and not row.remaining and can_trim(cache)

    def leap(self, row: GenerationState, cache: Layers) -> bool:
        """Some tokens of a row whose tokens have all been read. False when there is none to guess: step normally."""
        room = min(row.limit - row.generated, row.prompt.context - len(row.tokens)) - 1
        count = min(row.drafts, room)
        if count <= 0 or not self._caught_up(row):
            return False
        guesses = self._guess(row, count)
        length = len(row.tokens)
        logits = self._model(mx.array([[row.tokens[-1], *guesses]]), cache=cache)[0]
        draws = [draw(row.seed, row.generated + index) for index in range(count + 1)]
        sampled: Any = Sampler([row.sampling] * (count + 1), logits.shape[-1])(logits, draws).tolist()
        taken = 0
        for index, token in enumerate(sampled):
            row.accept(token)
            taken += 1
            if row.finished is not None or row.shifting or index == count or token != guesses[index]:
                break
        shorten(cache, count + 1 - taken)
        row.fed = length + taken - 1
        assert row.draft_cache is not None
        shorten(row.draft_cache, max(0, count - taken))
        row.draft_fed = length + min(count, taken) - 1
        return True

    def _caught_up(self, row: GenerationState) -> bool:
        """Bring the small model near the end of the row, a slice at a time; True when it is there."""
        if row.draft_cache is None:
            row.draft_cache, row.draft_fed = make_layers(self._draft), 0
        behind = row.tokens[row.draft_fed : -1]
        if len(behind) <= 2 * row.drafts:
            return can_trim(row.draft_cache)
        part = behind[:_CATCH_UP]
        self._draft(mx.array([part]), cache=row.draft_cache)
        mx.eval([layer.state for layer in row.draft_cache])
        row.draft_fed += len(part)
        return False

    def _guess(self, row: GenerationState, count: int) -> list[int]:
        newest = mx.array([row.tokens[row.draft_fed :]])
        guesses = []
        for _ in range(count):
            newest = mx.argmax(self._draft(newest, cache=row.draft_cache)[:, -1, :], axis=-1)[None]
            guesses.append(newest)
        told: Any = mx.concatenate(guesses, axis=-1)[0].tolist()
        return [int(token) for token in told]
