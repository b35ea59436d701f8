"""A limit for the model's thoughts: after so many tokens the thought is ended, and the answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ollmlx_mlx.engine.batching.grammar import GrammarConstraint


class ThinkingBudget:
    """Counts the tokens of a thought, and then allows only those that end it. `inner`: the constraint of the answer.

    Used on the compute thread, like the constraint that it wraps.
    """

    def __init__(
        self, tokens: int, ending: Sequence[int], width: int, *, thinks: bool, inner: GrammarConstraint | None = None
    ) -> None:
        """`ending`: the tokens that lead from a thought to the answer; `thinks`: the answer begins with a thought."""
        self._left = tokens
        self._ending = tuple(ending)
        self._width = width
        self._inner = inner
        self._thinks = thinks
        self._forced = 0

    def mask(self) -> Any:
        """Return a boolean array [width]: one token while a thought is being ended, else what the answer allows."""
        if self._thinks and self._left <= 0 and self._forced < len(self._ending):
            allowed = np.zeros(self._width, dtype=np.bool_)
            allowed[self._ending[self._forced]] = True
            return allowed
        return self._inner.mask() if self._inner is not None else None

    def accept(self, token: int, state: str) -> None:
        """Follow a sampled token; `state` is the channel of the answer after it."""
        if self._thinks:
            if self._left > 0:
                self._left -= 1
            else:
                self._forced += 1
        self._thinks = state == "reasoning" or 0 < self._forced < len(self._ending)
        if not self._thinks:
            self._forced = 0  # a second thought is ended at once
        if self._inner is not None:
            self._inner.accept(token, state)

    @property
    def complete(self) -> bool:
        """Return whether no token can follow."""
        return self._inner is not None and self._inner.complete
