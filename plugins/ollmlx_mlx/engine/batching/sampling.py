"""Sampling for a whole batch at once, each row by its own rules.

The order is llama.cpp's: top_k, typical_p, top_p, min_p, temperature. A row's token depends on its logits, its rules
and one number in [0, 1) that its own generator drew: never on its neighbours. The number picks by the inverse of the
cumulative distribution, so it means the same whatever the width of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from ollmlx.types import Options

_NARROW = 1024
_NONE = float("-inf")

Path = Literal["greedy", "narrow", "sorted", "plain"]


@dataclass(frozen=True)
class Sampling:
    """The rules of one request; names and meanings are those of `ollmlx.types.Options`."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0

    @staticmethod
    def of(options: Options) -> Sampling:
        """The rules in the options of a request."""
        return Sampling(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            typical_p=options.typical_p,
        )

    def path(self, vocabulary: int) -> Path:
        """How this row is sampled: sorting the whole vocabulary only if the rules need it."""
        if self.temperature <= 0 or self.top_k == 1:
            return "greedy"
        if 0 < self.top_k <= min(_NARROW, vocabulary - 1):
            return "narrow"
        return "sorted" if self.top_k or self.top_p < 1 or self.typical_p < 1 else "plain"


class Sampler:
    """The rules of the present rows, prepared once for each change of the batch."""

    def __init__(self, rules: Sequence[Sampling], vocabulary: int) -> None:
        groups: dict[Path, list[int]] = {}
        for row, rule in enumerate(rules):
            groups.setdefault(rule.path(vocabulary), []).append(row)
        self._groups = [(path, _Group(path, rows, [rules[row] for row in rows])) for path, rows in groups.items()]
        order = [row for _, group in self._groups for row in group.rows]
        self._back = mx.array([order.index(row) for row in range(len(rules))], dtype=mx.int32)

    @property
    def greedy(self) -> bool:
        """No row needs a drawn number."""
        return all(path == "greedy" for path, _ in self._groups)

    def __call__(self, logits: mx.array, draws: Sequence[float]) -> mx.array:
        """One token id per row, from logits [rows, vocabulary] and one number in [0, 1) per row."""
        if len(self._groups) == 1:
            return self._groups[0][1](logits, draws)
        picked = [
            group(logits[mx.array(group.rows, dtype=mx.int32)], [draws[row] for row in group.rows])
            for _, group in self._groups
        ]
        return mx.concatenate(picked)[self._back]


class _Group:
    """Rows that are sampled in the same way."""

    def __init__(self, path: Path, rows: list[int], rules: list[Sampling]) -> None:
        self.rows = rows
        self._path = path
        self._top_k = [rule.top_k for rule in rules]
        self._temperature = _column([rule.temperature for rule in rules])
        self._top_p = _column([rule.top_p for rule in rules])
        self._min_p = _column([rule.min_p for rule in rules])
        self._typical_p = _column([rule.typical_p for rule in rules])
        self._any_top_p = any(rule.top_p < 1 for rule in rules)
        self._any_min_p = any(rule.min_p > 0 for rule in rules)
        self._any_typical = any(rule.typical_p < 1 for rule in rules)

    def __call__(self, logits: mx.array, draws: Sequence[float]) -> mx.array:
        if self._path == "greedy":
            return mx.argmax(logits, axis=-1).astype(mx.int32)
        logits = logits.astype(mx.float32)
        numbers = mx.array([[draw] for draw in draws], dtype=mx.float32)
        if self._path == "plain":
            return _pick(self._weights(logits, logits.max(axis=-1, keepdims=True)), numbers)
        ids, logits = self._best_first(logits)
        place = _pick(self._weights(self._filtered(logits), logits[:, :1]), numbers)
        return mx.take_along_axis(ids, place[:, None], axis=-1)[:, 0].astype(mx.int32)

    def _best_first(self, logits: mx.array) -> tuple[mx.array, mx.array]:
        """The candidates, best first: as many as the widest top_k of the group, the surplus of the others masked."""
        if self._path == "narrow":
            width = max(self._top_k)
            near = mx.argpartition(-logits, kth=width - 1, axis=-1)[:, :width]
            logits = mx.take_along_axis(logits, near, axis=-1)
            order = mx.argsort(-logits, axis=-1)
            ids = mx.take_along_axis(near, order, axis=-1)
        else:
            order = ids = mx.argsort(-logits, axis=-1)
            width = logits.shape[-1]
        logits = mx.take_along_axis(logits, order, axis=-1)
        limits = _column([k if k > 0 else width for k in self._top_k])
        return ids, mx.where(mx.arange(width)[None] < limits, logits, _NONE)

    def _filtered(self, logits: mx.array) -> mx.array:
        if self._any_typical:
            logits = self._typical(logits)
        if self._any_top_p:
            shares = mx.softmax(logits, axis=-1, precise=True)
            before = mx.cumsum(shares, axis=-1) - shares
            keep = (before < self._top_p) | (mx.cumsum(shares, axis=-1) <= 0)
            first = mx.arange(logits.shape[-1])[None] == mx.argmax(logits, axis=-1)[:, None]
            logits = mx.where(keep | first | (self._top_p >= 1), logits, _NONE)
        return logits

    def _typical(self, logits: mx.array) -> mx.array:
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        shares = mx.exp(logprobs)
        entropy = -mx.where(shares > 0, shares * logprobs, 0.0).sum(axis=-1, keepdims=True)
        order = mx.argsort(mx.abs(-logprobs - entropy), axis=-1)
        sorted_shares = mx.take_along_axis(shares, order, axis=-1)
        keep_sorted = (mx.cumsum(sorted_shares, axis=-1) - sorted_shares) < self._typical_p
        keep = mx.put_along_axis(mx.zeros_like(keep_sorted), order, keep_sorted, axis=-1)
        return mx.where(keep | (self._typical_p >= 1), logits, _NONE)

    def _weights(self, logits: mx.array, best: mx.array) -> mx.array:
        """Unnormalised probabilities after min_p and temperature."""
        distance = logits - best
        weights = mx.exp(distance / self._temperature)
        if self._any_min_p:
            weights = mx.where(mx.exp(distance) >= self._min_p, weights, 0.0)
        return weights


def _column(values: Sequence[float]) -> mx.array:
    return mx.array([[value] for value in values], dtype=mx.float32)


def _pick(weights: mx.array, numbers: mx.array) -> mx.array:
    """Index of the first entry whose cumulative weight exceeds the drawn share of the total; the first entry if

    rounding leaves none.
    """
    sums = mx.cumsum(weights, axis=-1)
    index = (sums <= numbers * sums[:, -1:]).sum(axis=-1)
    return mx.where(index < weights.shape[-1], index, mx.argmax(weights, axis=-1)).astype(mx.int32)
