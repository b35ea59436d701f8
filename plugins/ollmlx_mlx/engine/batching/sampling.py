"""From logits to tokens for a whole batch at once, each row by its own rules, and the tokens' log-probabilities.

Penalties and bias come first. The order of the filters is llama.cpp's: top_k, typical_p, top_p, min_p, temperature. A
row's token depends on its logits, its rules and one number in [0, 1) from its own generator, and never on other rows.
The number picks by the inverse of the cumulative distribution, so it means the same whatever the width of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import mlx.core as mx

from ollmlx.types import Options, TokenLogprob

_LONGEST: Final = 8192
"""Tokens that penalties can look back at."""
_NARROW: Final = 1024
"""The largest top_k for which the vocabulary is not sorted whole."""
_NONE: Final = float("-inf")

Path = Literal["greedy", "narrow", "sorted", "plain"]
Spell = Callable[[Sequence[int]], str]
"""Returns the text of token ids."""


@dataclass(frozen=True)
class PenaltyRules:
    """The penalties of one request. `window`: tokens that count, at most 8192; 0 switches the penalties off.

    As in llama.cpp, prompt and answer both count, within the last `repeat_last_n` tokens.
    """

    repeat: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    window: int = 64
    bias: tuple[tuple[int, float], ...] = ()

    @staticmethod
    def of(options: Options, context: int, vocabulary: int) -> PenaltyRules:
        """Return the penalties in the options of a request. Ids outside the vocabulary get no bias."""
        last = options.repeat_last_n
        return PenaltyRules(
            repeat=options.repeat_penalty,
            presence=options.presence_penalty,
            frequency=options.frequency_penalty,
            window=min(context if last < 0 else last, _LONGEST),
            bias=tuple((token, bias) for token, bias in options.logit_bias.items() if 0 <= token < vocabulary),
        )

    @property
    def count(self) -> bool:
        """Return whether past tokens matter."""
        return self.window > 0 and (self.repeat != 1.0 or self.presence != 0.0 or self.frequency != 0.0)


class Penalizer:
    """The penalties of the present rows. The window of past tokens moves on the device: the host does not wait for it.

    Made anew for each change of the batch. `past`: the tokens of each row before the newest one.
    """

    def __init__(self, rules: Sequence[PenaltyRules], past: Sequence[Sequence[int]]) -> None:
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
        """Apply the penalties to logits [rows, vocabulary]. `inputs` [rows]: the newest token of each row."""
        if self._rows:
            whole = len(self._rows) == self._total
            index = mx.array(self._rows, dtype=mx.int32)
            newest = (inputs if whole else inputs[index]).astype(mx.int32)
            self._recent = mx.concatenate([self._recent[:, 1:], newest[:, None]], axis=1)
            penalized = self._penalized(logits if whole else logits[index])
            if whole:
                logits = penalized
            else:
                logits[index] = penalized
        if self._bias is not None:
            rows, tokens, values = self._bias
            logits = logits.at[rows, tokens].add(values.astype(logits.dtype))
        return logits

    def _penalized(self, logits: mx.array) -> mx.array:
        rows, vocabulary = logits.shape
        # Padding and tokens before the window are counted in an extra column, which is cut off.
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


def _bias(rules: Sequence[PenaltyRules]) -> tuple[mx.array, mx.array, mx.array] | None:
    entries = [(row, token, value) for row, rule in enumerate(rules) for token, value in rule.bias]
    if not entries:
        return None
    rows, tokens, values = zip(*entries, strict=True)
    return mx.array(rows), mx.array(tokens), mx.array(values, dtype=mx.float32)


def _path(options: Options, vocabulary: int) -> Path:
    """Return how a row is sampled: the whole vocabulary is sorted only if the options need it."""
    if options.temperature <= 0 or options.top_k == 1:
        return "greedy"
    if 0 < options.top_k <= min(_NARROW, vocabulary - 1):
        return "narrow"
    return "sorted" if options.top_k or options.top_p < 1 or options.typical_p < 1 else "plain"


class Sampler:
    """Samples by the options of the present rows. Made anew for each change of the batch."""

    def __init__(self, rules: Sequence[Options], vocabulary: int) -> None:
        groups: dict[Path, list[int]] = {}
        for row, rule in enumerate(rules):
            groups.setdefault(_path(rule, vocabulary), []).append(row)
        self._groups = [(path, _Group(path, rows, [rules[row] for row in rows])) for path, rows in groups.items()]
        order = [row for _, group in self._groups for row in group.rows]
        self._back = mx.array([order.index(row) for row in range(len(rules))], dtype=mx.int32)

    @property
    def greedy(self) -> bool:
        """Return whether no row needs a random number."""
        return all(path == "greedy" for path, _ in self._groups)

    def __call__(self, logits: mx.array, draws: Sequence[float]) -> mx.array:
        """Return one token id per row, from logits [rows, vocabulary] and one number in [0, 1) per row."""
        if len(self._groups) == 1:
            return self._groups[0][1](logits, draws)
        picked = [
            group(logits[mx.array(group.rows, dtype=mx.int32)], [draws[row] for row in group.rows])
            for _, group in self._groups
        ]
        return mx.concatenate(picked)[self._back]


class _Group:
    """Rows that are sampled in the same way."""

    def __init__(self, path: Path, rows: list[int], rules: list[Options]) -> None:
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
        index = _pick(self._weights(self._filtered(logits), logits[:, :1]), numbers)
        return mx.take_along_axis(ids, index[:, None], axis=-1)[:, 0].astype(mx.int32)

    def _best_first(self, logits: mx.array) -> tuple[mx.array, mx.array]:
        """Return ids and logits, best first: as many as the largest top_k. Rows with a smaller one are masked."""
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
        """Return unnormalised probabilities after min_p and temperature."""
        distance = logits - best
        weights = mx.exp(distance / self._temperature)
        if self._any_min_p:
            weights = mx.where(mx.exp(distance) >= self._min_p, weights, 0.0)
        return weights


def _column(values: Sequence[float]) -> mx.array:
    return mx.array([[value] for value in values], dtype=mx.float32)


def _pick(weights: mx.array, numbers: mx.array) -> mx.array:
    """Return the index of the first entry whose cumulative weight exceeds the drawn share of the total.

    When rounding leaves none, it is the entry with the largest weight.
    """
    sums = mx.cumsum(weights, axis=-1)
    index = (sums <= numbers * sums[:, -1:]).sum(axis=-1)
    return mx.where(index < weights.shape[-1], index, mx.argmax(weights, axis=-1)).astype(mx.int32)


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
        index = mx.array(list(rows), dtype=mx.int32)
        return PendingLogprobs(self._chosen[index], self._ids[index], self._values[index])

    def widened(self, rows: int) -> PendingLogprobs:
        """Return the values with more rows at the end, which are never read."""
        pad = [(0, rows), (0, 0)]
        return PendingLogprobs(mx.pad(self._chosen, [(0, rows)]), mx.pad(self._ids, pad), mx.pad(self._values, pad))

    def of(self, row: int, token: int, count: int | None, spell: Spell) -> TokenLogprob | None:
        """Return a row's sampled token with `count` alternatives, best first; None when the row asked for none."""
        if count is None:
            return None
        if self._read is None:
            mx.eval(*self.arrays)
            read: Any = (self._chosen.tolist(), self._ids.tolist(), self._values.tolist())
            self._read = read
        chosen, ids, values = self._read
        best = sorted(zip(values[row], ids[row], strict=True), reverse=True)[:count]
        return TokenLogprob(
            token=spell([token]),
            logprob=chosen[row],
            id=token,
            top=tuple(TokenLogprob(token=spell([id_]), logprob=value, id=id_) for value, id_ in best),
        )
