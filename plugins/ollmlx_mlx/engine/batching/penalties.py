"""Repetition, presence and frequency penalties and logit bias, for the rows of a batch that ask for them.

As in llama.cpp, prompt and answer both count, within the last `repeat_last_n` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from ollmlx.types import Options

_LONGEST = 8192


@dataclass(frozen=True)
class Penalties:
    """What one request asks for. `window`: tokens that count, at most 8192; 0 switches the penalties off."""

    repeat: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    window: int = 64
    bias: tuple[tuple[int, float], ...] = ()

    @staticmethod
    def of(options: Options, context: int, vocabulary: int) -> Penalties:
        """The penalties in the options of a request; ids outside the vocabulary carry no bias."""
        last = options.repeat_last_n
        return Penalties(
            repeat=options.repeat_penalty,
            presence=options.presence_penalty,
            frequency=options.frequency_penalty,
            window=min(context if last < 0 else last, _LONGEST),
            bias=tuple((token, bias) for token, bias in options.logit_bias.items() if 0 <= token < vocabulary),
        )

    @property
    def count(self) -> bool:
        """Whether past tokens matter."""
        return self.window > 0 and (self.repeat != 1.0 or self.presence != 0.0 or self.frequency != 0.0)


class Penalizer:
    """The penalties of the present rows, with a window of past tokens that moves on the device, without waiting for it.

    Made anew for each change of the batch; `past` are the tokens of each row that the host knows, the one whose
    successor is computed next excluded.
    """

    def __init__(self, rules: Sequence[Penalties], past: Sequence[Sequence[int]]) -> None:
        self._rows = [row for row, rule in enumerate(rules) if rule.count]
        self._total = len(rules)
        self._bias = _bias(rules)
        if not self._rows:
            return
        asking = [rules[row] for row in self._rows]
        width = max(rule.window for rule in asking)
        self._recent = mx.array([_window(past[row], width) for row in self._rows], dtype=mx.int32)
        windows = mx.array([[rule.window] for rule in asking])
        self._counted = mx.arange(width)[None] >= width - windows
        self._repeat = mx.array([[rule.repeat] for rule in asking], dtype=mx.float32)
        self._presence = mx.array([[rule.presence] for rule in asking], dtype=mx.float32)
        self._frequency = mx.array([[rule.frequency] for rule in asking], dtype=mx.float32)

    def __call__(self, logits: mx.array, inputs: mx.array) -> mx.array:
        """Logits [rows, vocabulary] with the penalties, `inputs` [rows] being the newest tokens of the rows."""
        if self._rows:
            whole = len(self._rows) == self._total
            index = mx.array(self._rows, dtype=mx.int32)
            newest = (inputs if whole else inputs[index]).astype(mx.int32)
            self._recent = mx.concatenate([self._recent[:, 1:], newest[:, None]], axis=1)
            punished = self._punish(logits if whole else logits[index])
            if whole:
                logits = punished
            else:
                logits[index] = punished
        if self._bias is not None:
            rows, tokens, values = self._bias
            logits = logits.at[rows, tokens].add(values.astype(logits.dtype))
        return logits

    def _punish(self, logits: mx.array) -> mx.array:
        rows, vocabulary = logits.shape
        # Padding and what lies before the window is counted in a column of its own, which is cut off.
        valid = self._counted & (self._recent >= 0)
        columns = mx.where(valid, self._recent, vocabulary)
        counts = mx.zeros((rows, vocabulary + 1), dtype=mx.float32)
        counts = counts.at[mx.arange(rows)[:, None], columns].add(mx.array(1.0))[:, :vocabulary]
        seen = counts > 0
        values = logits.astype(mx.float32)
        repeated = mx.where(values > 0, values / self._repeat, values * self._repeat)
        values = mx.where(seen, repeated - self._presence - counts * self._frequency, values)
        return values.astype(logits.dtype)


def _window(tokens: Sequence[int], width: int) -> list[int]:
    recent = list(tokens[-width:])
    return [-1] * (width - len(recent)) + recent


def _bias(rules: Sequence[Penalties]) -> tuple[mx.array, mx.array, mx.array] | None:
    entries = [(row, token, value) for row, rule in enumerate(rules) for token, value in rule.bias]
    if not entries:
        return None
    rows, tokens, values = zip(*entries, strict=True)
    return mx.array(rows), mx.array(tokens), mx.array(values, dtype=mx.float32)
