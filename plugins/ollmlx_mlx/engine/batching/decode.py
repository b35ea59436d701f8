"""The running batch: one model call per step, for every sequence whose prompt is computed.

Why not mlx-lm's `GenerationBatch`: it samples row after row with one global generator, evaluates every row's whole
log-probabilities at each step, and cannot wait for a grammar. The caches it works on (merge, extend, filter, extract)
are used as they are. A lone sequence keeps its plain cache, which needs no mask.

The device is kept busy: the next step is launched before the tokens of the last one are read and turned into text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.base import Module

from ollmlx_mlx.engine.batching.drafting import Drafter
from ollmlx_mlx.engine.batching.forward import Forward
from ollmlx_mlx.engine.batching.generation import GenerationState
from ollmlx_mlx.engine.batching.prompt_lookup import PromptLookup
from ollmlx_mlx.engine.batching.sampling import Penalizer, PendingLogprobs, Sampler
from ollmlx_mlx.engine.kv_cache import Layers, can_trim, clone, extract_row, make_layers, merge


class OutputHead:
    """Applies a model's output head to the last position alone, where that is all that is needed.

    With a large vocabulary the head is a good part of a small model, and its results for a long chunk would fill
    memory. mlx-lm's models apply it inside their call, so the layer that makes logits out of hidden states is changed
    in place: it drops all positions but the last. `narrows`: whether the head was found, so that `last_only` works.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._last_only = False
        for name, layer in model.named_modules():
            if name.rpartition(".")[2] == "lm_head":
                self._wrap(layer, "__call__")
            elif hasattr(layer, "as_linear"):  # an embedding that may serve as head as well
                self._wrap(layer, "as_linear")
        self.narrows = self._narrows()

    @contextmanager
    def last_only(self) -> Iterator[None]:
        """Return a context in which model calls give logits [rows, 1, vocabulary], if the head `narrows`."""
        self._last_only = True
        try:
            yield
        finally:
            self._last_only = False

    def _wrap(self, layer: Module, method: str) -> None:
        kind = type(layer)
        original = getattr(kind, method)

        def narrowed(this: Any, hidden: mx.array) -> mx.array:
            result: mx.array = original(this, hidden[..., -1:, :] if self._last_only else hidden)
            return result

        # Python looks special methods up in the class: an instance attribute would not be seen.
        layer.__class__ = type(kind.__name__, (kind,), {method: narrowed})

    def _narrows(self) -> bool:
        """Return whether `last_only` works. MLX knows shapes before it computes: the call is built and thrown away."""
        with self.last_only():
            logits = self._model(mx.zeros((1, 2), dtype=mx.int32), cache=make_layers(self._model))
        return bool(logits.shape[1] == 1)


class DecodeBatch:
    """Sequences that are being decoded. `rows` in batch order.

    `launch_blocks`: launching a step takes nearly as long as computing it (CPU). Then a first token is read before the
    second is launched: otherwise it would wait for a whole step.
    """

    def __init__(
        self,
        forward: Forward,
        head: OutputHead,
        drafter: Drafter | PromptLookup | None = None,
        *,
        launch_blocks: bool = False,
    ) -> None:
        self._forward = forward
        self._head = head
        self._drafter = drafter
        self._launch_blocks = launch_blocks
        self.clear()

    def clear(self) -> None:
        """Remove everything, also after a failure."""
        self.rows: list[GenerationState] = []
        self._cache: Layers = []
        self._merged = False
        self._inputs = mx.array([], dtype=mx.int32)
        self._unread: list[bool] = []
        self._opening: list[int] = []
        self._logprobs: PendingLogprobs | None = None
        self._sampler: Sampler | None = None
        self._penalizer: Penalizer | None = None

    def extend(self, added: Sequence[GenerationState]) -> None:
        """Add sequences whose prompts are computed up to the last token. A lone one may have more."""
        caches = [generation.cache for generation in added if generation.cache is not None]
        assert len(caches) == len(added)
        alone = len(added) == 1 and not self.rows
        assert alone or not any(generation.remaining for generation in added)
        self._opening = added[0].tokens[added[0].fed :] if alone and added[0].remaining else []
        if alone:
            (self._cache,) = caches
        elif self._merged:
            for layer, more in zip(self._cache, merge(caches), strict=True):
                layer.extend(more)
        else:
            self._cache = merge([self._cache, *caches] if self.rows else caches)
        self._merged = not alone
        newest = mx.array([generation.tokens[-1] for generation in added], dtype=mx.int32)
        self._inputs = mx.concatenate([self._inputs, newest]) if self.rows else newest
        if self._logprobs is not None:
            self._logprobs = self._logprobs.widened(len(added))
        self.rows += added
        self._unread += [False] * len(added)
        for generation in added:
            generation.cache = None
        self._sampler = self._penalizer = None

    def filter_out(self, leaving: Collection[GenerationState], *, keep_caches: bool) -> None:
        """Remove sequences. With `keep_caches` each gets its own cache back, of its first `fed` tokens."""
        if keep_caches:
            for index, row in enumerate(self.rows):
                if row in leaving:
                    row.cache = extract_row(self._cache, index) if self._merged else self._cache
        stay = [index for index, row in enumerate(self.rows) if row not in leaving]
        if len(stay) == len(self.rows):
            return
        if not stay:
            self.clear()
            return
        self.rows = [self.rows[index] for index in stay]
        self._unread = [self._unread[index] for index in stay]
        self._logprobs = self._logprobs.kept(stay) if self._logprobs is not None else None
        self._inputs = self._inputs[mx.array(stay, dtype=mx.int32)]
        if self._merged and len(stay) == 1:
            self._cache, self._merged = extract_row(self._cache, stay[0]), False
        elif self._merged:
            for layer in self._cache:
                layer.filter(stay)
        self._sampler = self._penalizer = None

    def prefix(self, row: GenerationState, length: int) -> Layers | None:
        """Return a copy of a sequence's cache up to `length` tokens, None where its kind cannot be trimmed."""
        index = self.rows.index(row)
        layers = extract_row(self._cache, index) if self._merged else self._cache
        if not can_trim(layers) or row.fed < length:
            return None
        return clone(layers, row.fed - length)

    def step(self) -> None:
        """Launch the next token of every row, then read the tokens that were launched before."""
        if self._ending():
            self.flush()
            return
        if self._drafter is not None and len(self.rows) == 1 and not self._opening and self._draft_step(self._drafter):
            return
        inputs = mx.array([self._opening]) if self._opening else self._inputs[:, None]
        self._opening = []
        with self._head.last_only():
            logits = self._forward(inputs, self._cache, self.rows)[:, -1, :]
        for row in self.rows:
            row.fed += inputs.shape[1]
        constrained = any(row.constraint is not None for row in self.rows)
        if constrained:
            # A grammar's mask depends on the last token: the device computes while the host reads it.
            mx.async_eval(logits)
            self.flush()
        sampled, logprobs = self._sample(logits)
        if not constrained:
            self.flush()
        self._inputs, self._logprobs = sampled, logprobs
        self._unread = [True] * len(self.rows)
        if self._launch_blocks and any(row.generated == 0 for row in self.rows):
            self.flush()

    def _draft_step(self, drafter: Drafter | PromptLookup) -> bool:
        (row,) = self.rows
        if self._merged or not drafter.can_draft(row, self._cache):
            return False
        self.flush()
        if row.finished is not None or row.shifting:
            return True
        if not drafter.step(row, self._cache):
            return False
        self._inputs = mx.array([row.tokens[-1]], dtype=mx.int32)
        return True

    def flush(self) -> None:
        """Read the tokens that were launched and not read yet, and give them to their rows."""
        if not any(self._unread):
            return
        mx.eval(self._inputs)
        tokens: Any = self._inputs.tolist()
        asked = self._logprobs
        for index, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if self._unread[index]:
                row.accept(token, asked.of(index, token, row.top_logprobs, row.spell) if asked else None)
        self._unread = [False] * len(self.rows)

    def _ending(self) -> bool:
        """Return whether the unread tokens are the last ones of all rows, so that another step would be wasted."""
        return all(
            unread and row.last_by_length() and row.constraint is None
            for row, unread in zip(self.rows, self._unread, strict=True)
        )

    def _sample(self, logits: mx.array) -> tuple[mx.array, PendingLogprobs | None]:
        if self._sampler is None or self._penalizer is None:
            self._sampler = Sampler([row.options for row in self.rows], logits.shape[-1])
            # The newest token may not have been read yet: the penalizer gets it as `inputs`.
            past = [row.tokens[: row.fed - 1] for row in self.rows]
            self._penalizer = Penalizer([row.penalties for row in self.rows], past)
        raw = logits
        logits = self._penalizer(logits, self._inputs)
        logits = self._masked(logits)
        draws = [] if self._sampler.greedy else [row.draw() for row in self.rows]
        sampled = self._sampler(logits, draws)
        logprobs = PendingLogprobs.of_step(raw, sampled, [row.top_logprobs for row in self.rows])
        mx.async_eval(sampled, *(logprobs.arrays if logprobs else ()))
        return sampled, logprobs

    def _masked(self, logits: mx.array) -> mx.array:
        masks = [
            row.constraint.mask() if row.constraint is not None and row.finished is None else None for row in self.rows
        ]
        if all(mask is None for mask in masks):
            return logits
        allowed = np.ones((len(masks), logits.shape[-1]), dtype=np.bool_)
        for index, mask in enumerate(masks):
            if mask is not None:
                allowed[index] = mask
        return mx.where(mx.array(allowed), logits, mx.array(float("-inf"), dtype=logits.dtype))
