"""The call of the model for sequences whose caches stand side by side. Models that see pictures have their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx

from ollmlx_mlx.engine.batching.generation import GenerationState
from ollmlx_mlx.engine.kv_cache import Layers


class Forward(Protocol):
    """Calls a model. Each row of `inputs` has the next tokens of one sequence, from its token number `fed` on."""

    def prepare(self, row: GenerationState, count: int) -> None:
        """Compute what the next `count` tokens of a sequence need besides the model, such as a picture's vectors."""

    def __call__(self, inputs: mx.array, cache: Layers, rows: Sequence[GenerationState]) -> mx.array:
        """Return the logits, [rows, tokens, vocabulary]. Without sequences the inputs are text."""


class TextForward:
    """Calls a model whose inputs are token ids alone."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def prepare(self, row: GenerationState, count: int) -> None:
        """Do nothing."""

    def __call__(self, inputs: mx.array, cache: Layers, rows: Sequence[GenerationState]) -> mx.array:
        logits: mx.array = self._model(inputs, cache=cache)
        return logits
