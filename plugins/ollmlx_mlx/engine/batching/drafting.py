"""Speculative decoding for a sequence alone in its batch: guessed tokens are checked by the model in one step.

Why not mlx-lm's `speculative_generate_step`: it owns its loop, and here another request may join at the next step.
A proposed token counts only where the model itself, with the request's own rules and random numbers, would have chosen
it: the text is the same with and without a draft model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx

from ollmlx_mlx.engine.batching.generation import GenerationState, draw
from ollmlx_mlx.engine.batching.sampling import Sampler
from ollmlx_mlx.engine.kv_cache import Layers, can_trim, make_layers, shorten

_CATCH_UP: Final = 256


def follows_plain_rules(row: GenerationState, cache: Layers) -> bool:
    """Return whether tokens of this request can be checked several at a time: no rule depends on each single one."""
    plain = row.constraint is None and row.top_logprobs is None
    plain = plain and not row.prompt.keys  # after pictures, positions need not be the numbers of tokens
    plain = plain and not row.penalties.count and not row.penalties.bias
    return plain and row.options.draft_num_predict > 0 and not row.remaining and can_trim(cache)


def check_proposed(model: Any, row: GenerationState, cache: Layers, proposed: Sequence[int]) -> int:
    """Compute the proposed tokens in one step and accept those that the model itself chooses, and one more.

    Returns the number of accepted tokens. The cache is left with all tokens but the last.
    """
    length, count = len(row.tokens), len(proposed)
    logits = model(mx.array([[row.tokens[-1], *proposed]]), cache=cache)[0]
    draws = [draw(row.seed, row.generated + index) for index in range(count + 1)]
    sampled: Any = Sampler([row.options] * (count + 1), logits.shape[-1])(logits, draws).tolist()
    accepted = 0
    for index, token in enumerate(sampled):
        row.accept(token)
        accepted += 1
        if row.finished is not None or row.shifting or index == count or token != proposed[index]:
            break
    shorten(cache, count + 1 - accepted)
    row.fed = length + accepted - 1
    return accepted


class Drafter:
    """Makes draft steps for one model. `draft`: a small model of the same vocabulary."""

    def __init__(self, model: Any, draft: Any) -> None:
        self._model = model
        self._draft = draft

    def can_draft(self, row: GenerationState, cache: Layers) -> bool:
        """Return whether draft steps are possible."""
        return follows_plain_rules(row, cache)

    def step(self, row: GenerationState, cache: Layers) -> bool:
        """Decode some tokens of a row whose tokens have all been read. False: a normal step is needed instead."""
        room = min(row.limit - row.generated, row.prompt.context - len(row.tokens)) - 1
        count = min(row.options.draft_num_predict, room)
        if count <= 0 or not self._caught_up(row):
            return False
        length = len(row.tokens)
        accepted = check_proposed(self._model, row, cache, self._propose(row, count))
        assert row.draft_cache is not None
        shorten(row.draft_cache, max(0, count - accepted))
        row.draft_fed = length + min(count, accepted) - 1
        return True

    def _caught_up(self, row: GenerationState) -> bool:
        """Feed the draft model up to the end of the row, a chunk at a time. True when it is there."""
        if row.draft_cache is None:
            row.draft_cache, row.draft_fed = make_layers(self._draft), 0
        behind = row.tokens[row.draft_fed : -1]
        if len(behind) <= 2 * row.options.draft_num_predict:
            return can_trim(row.draft_cache)
        part = behind[:_CATCH_UP]
        self._draft(mx.array([part]), cache=row.draft_cache)
        mx.eval([layer.state for layer in row.draft_cache])
        row.draft_fed += len(part)
        return False

    def _propose(self, row: GenerationState, count: int) -> list[int]:
        newest = mx.array([row.tokens[row.draft_fed :]])
        proposed = []
        for _ in range(count):
            newest = mx.argmax(self._draft(newest, cache=row.draft_cache)[:, -1, :], axis=-1)[None]
            proposed.append(newest)
        tokens: Any = mx.concatenate(proposed, axis=-1)[0].tolist()
        return [int(token) for token in tokens]
