"""Large layers computed in tiles: the same numbers, whatever the shapes."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear

from ollmlx_mlx.tiles import MANY, TiledEmbedding, TiledLinear, product, tile

pytestmark = pytest.mark.mlx


@settings(max_examples=30, deadline=None)
@given(
    shape=some.lists(some.integers(1, 5), max_size=2),
    features=some.integers(1, 16),
    outputs=some.sampled_from([1, 511, 512, 513, 1600]),
)
def test_tiles_give_the_product_that_the_whole_gives(shape: list[int], features: int, outputs: int) -> None:
    inputs = mx.random.normal((*shape, features))
    weight = mx.random.normal((outputs, features))
    found = product(inputs, weight)
    assert found.shape == (*shape, outputs)
    assert mx.allclose(found, inputs @ weight.T, rtol=1e-4, atol=1e-4).item()


class Model(Module):
    """A layer of every kind that may be met."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.embed_tokens = Embedding(MANY, 32)
        self.up = Linear(32, MANY)
        self.down = Linear(MANY, 32)
        self.half = Linear(32, MANY)
        self.half.set_dtype(mx.float16)
        self.packed = QuantizedLinear(32, MANY, group_size=32)


def test_only_large_float32_layers_are_changed_and_they_compute_as_before() -> None:
    model = Model()
    inputs = mx.random.normal((2, 3, 32))
    before = model.up(inputs), model.embed_tokens.as_linear(inputs)
    tile(model)
    assert type(model.up) is TiledLinear
    assert type(model.embed_tokens) is TiledEmbedding
    assert (type(model.down), type(model.half), type(model.packed)) == (Linear, Linear, QuantizedLinear)
    after = model.up(inputs), model.embed_tokens.as_linear(inputs)
    assert all(mx.allclose(*pair, rtol=1e-4, atol=1e-4).item() for pair in zip(before, after, strict=True))
    assert model.embed_tokens(mx.array([1, 2])).shape == (2, 32)
