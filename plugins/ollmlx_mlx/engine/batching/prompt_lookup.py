"""Guesses without a second model: what followed the last tokens when they occurred before, in prompt or answer.

Answers that repeat their prompt (a file rewritten with one change, a quotation) advance several tokens a step. Others
pay for wrong guesses: the time that they have cost so far is never more than a small share of the time spent decoding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from ollmlx_mlx.engine.batching.drafting import check_proposed, follows_plain_rules
from ollmlx_mlx.engine.batching.generation import GenerationState
from ollmlx_mlx.engine.kv_cache import Layers

_GRAM: Final = 3
"""Tokens that must have occurred before in the same order."""
_FIRST: Final = 3
_LEAST: Final = 2
_MOST: Final = 16
"""Guessed tokens of a step: at first, after a wrong guess, and after many right ones."""
_LOSS: Final = 0.02
"""Share of the decoding time that wrong guesses may cost."""
_TRUST: Final = 1.02
"""Growth of the estimated time of a plain step from step to step, until a faster one is seen."""


@dataclass
class _History:
    """The earlier tokens of one sequence, and what guessing has brought it. Times in seconds."""

    ends: dict[tuple[int, ...], int] = field(default_factory=dict)
    seen: int = _GRAM
    width: int = _FIRST
    plain: float = 0.0
    spent: float = 0.0
    gained: float = 0.0
    begun: float | None = None

    def next(self, tokens: Sequence[int], count: int) -> Sequence[int]:
        """Return up to `count` tokens that followed the last occurrence of the newest tokens."""
        if len(tokens) < self.seen:  # the context was shifted
            self.ends.clear()
            self.seen = _GRAM
        for end in range(self.seen, len(tokens)):
            self.ends[tuple(tokens[end - _GRAM : end])] = end
        self.seen = max(self.seen, len(tokens))
        at = self.ends.get(tuple(tokens[-_GRAM:]))
        return tokens[at : at + count] if at is not None else ()

    def note_plain(self, seconds: float) -> None:
        """Note a step that decoded one token. The least time counts: other requests may have been served in between."""
        self.plain = min(seconds, self.plain * _TRUST) if self.plain else seconds
        self.spent += self.plain

    def note_guess(self, tokens: int, asked: int, seconds: float) -> None:
        """Note a step that decoded so many tokens, with `asked` guesses."""
        self.gained += tokens * self.plain - seconds
        self.spent += seconds
        self.width = min(_MOST, 2 * self.width) if tokens > asked else max(_LEAST, min(tokens, self.width))

    @property
    def pays(self) -> bool:
        """Return whether the next guess may fail: the time of plain steps is known, and not much is lost."""
        return self.plain > 0 and self.gained >= -_LOSS * self.spent


class PromptLookup:
    """Makes draft steps of guesses from the sequence itself. Used as `Drafter` is."""

    def __init__(self, model: Any, clock: Callable[[], float] = time.perf_counter) -> None:
        self._model = model
        self._clock = clock
        self._histories: WeakKeyDictionary[GenerationState, _History] = WeakKeyDictionary()

    def can_draft(self, row: GenerationState, cache: Layers) -> bool:
        """Return whether to wait for the newest token, because the tokens before it have occurred already."""
        if not follows_plain_rules(row, cache):
            return False
        history, now = self._histories.setdefault(row, _History()), self._clock()
        if history.begun is not None:
            history.note_plain(now - history.begun)
        history.begun = now
        return history.pays and bool(history.next(row.tokens, 1))

    def step(self, row: GenerationState, cache: Layers) -> bool:
        """Decode some tokens of a row whose tokens have all been read. False: a normal step is needed instead."""
        history, begun = self._histories[row], self._clock()
        room = min(row.limit - row.generated, row.prompt.context - len(row.tokens)) - 1
        proposed = history.next(row.tokens, min(history.width, room)) if room > 0 else ()
        if not proposed:
            return False
        accepted = check_proposed(self._model, row, cache, proposed)
        history.note_guess(accepted, len(proposed), self._clock() - begun)
        history.begun = None
        return True
