"""Large products in tiles and halves: the same numbers, whatever the shapes."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from ollmlx_mlx.linux_cpu.products import divided, product

pytestmark = pytest.mark.mlx


@settings(max_examples=30, deadline=None)
@given(
    shape=some.lists(some.integers(1, 5), max_size=2),
    features=some.integers(1, 16),
    outputs=some.sampled_from([1, 511, 3072, 3073, 3600]),
)
def test_tiles_give_the_product_that_the_whole_gives(shape: list[int], features: int, outputs: int) -> None:
    inputs = mx.random.normal((*shape, features))
    weight = mx.random.normal((outputs, features))
    found = product(inputs, weight)
    assert found.shape == (*shape, outputs)
    assert mx.allclose(found, inputs @ weight.T, rtol=1e-4, atol=1e-4).item()


@settings(max_examples=30, deadline=None)
@given(
    shape=some.sampled_from([(), (1,), (3,), (2, 5), (64,), (2, 33)]),
    outputs=some.sampled_from([1, 2, 3, 1023, 1024, 1700, 3072, 5000]),
)
@pytest.mark.usefixtures("two_streams")
def test_halves_give_the_product_that_the_whole_gives(shape: tuple[int, ...], outputs: int) -> None:
    inputs = mx.random.normal((*shape, 24))
    weight = mx.random.normal((outputs, 24))
    found = divided(inputs, weight)
    assert found.shape == (*shape, outputs)
    assert mx.allclose(found, inputs @ weight.T, rtol=1e-4, atol=1e-4).item()
