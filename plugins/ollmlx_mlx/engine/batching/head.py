"""The output head on the last position alone: what a prompt's other positions would say, nobody reads.

With a large vocabulary the head is a good part of a small model, and its results for a long chunk would fill memory.
mlx-lm's models apply it inside their call, so it is changed in place: the layer that makes logits out of hidden states
is told to drop all positions but the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from ollmlx_mlx.engine.cache.layers import make_layers


class Head:
    """The head of one model. `narrows`: whether `last_only` has an effect; it has none where the head is not found."""

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
        """Model calls inside give logits [rows, 1, vocabulary], if the head `narrows`."""
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
        """Shapes are known before anything is computed: build the call, and throw it away."""
        with self.last_only():
            logits = self._model(mx.zeros((1, 2), dtype=mx.int32), cache=make_layers(self._model))
        return bool(logits.shape[1] == 1)
