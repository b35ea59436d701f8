"""The head on the last position alone: the same logits there, for every architecture whose head is found."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

from ollmlx_mlx.engine.batching.decode import OutputHead

pytestmark = pytest.mark.mlx


def test_the_last_position_alone_has_the_logits_it_has_among_all(architecture: Path) -> None:
    model, _ = load_model(architecture)
    tokens = mx.arange(20)[None]
    whole = model(tokens, cache=make_prompt_cache(model))
    head = OutputHead(model)
    assert head.narrows
    with head.last_only():
        alone = model(tokens, cache=make_prompt_cache(model))
    assert alone.shape == (1, 1, whole.shape[-1])
    assert mx.allclose(alone[:, -1], whole[:, -1], rtol=1e-4, atol=1e-4).item()
    assert model(tokens, cache=make_prompt_cache(model)).shape == whole.shape


class HeadElsewhere(Module):
    """A model whose head has a name that nobody expects."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Module] = []

    def __call__(self, tokens: mx.array, cache: list[object] | None = None) -> mx.array:
        return mx.zeros((*tokens.shape, 5))


def test_a_head_that_is_not_found_is_left_alone() -> None:
    model = HeadElsewhere()
    head = OutputHead(model)
    assert not head.narrows
    with head.last_only():
        assert model(mx.array([[1, 2, 3]])).shape == (1, 3, 5)
