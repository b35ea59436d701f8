"""Unpacked weights: the numbers that MLX itself unpacks, for every kind of quantised layer."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module
from mlx.nn.layers.containers import Sequential
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear

from ollmlx_mlx.engine import unpack
from ollmlx_mlx.engine.unpack import unpack_model

pytestmark = pytest.mark.mlx


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(("outputs", "features"), [(1, 128), (7, 256), (300, 1024)])
def test_unpacked_weights_are_bit_for_bit_those_of_mlx(bits: int, group: int, outputs: int, features: int) -> None:
    packed, scales, offsets = mx.quantize(mx.random.normal((outputs, features)), group_size=group, bits=bits)
    expected = mx.dequantize(packed, scales, offsets, group_size=group, bits=bits)
    found = unpack.unpack(packed, scales, offsets, bits)
    assert (found.dtype, found.shape) == (mx.float32, (outputs, features))
    assert mx.array_equal(found, expected).item()


@pytest.mark.parametrize(
    ("layer", "form"),
    [
        (Linear(64, 8), {"group_size": 32, "bits": 4}),
        (Linear(64, 8, bias=False), {"group_size": 64, "bits": 8}),
        (Linear(64, 8), {"group_size": 32, "bits": 3}),
        (Linear(64, 8), {"group_size": 32, "bits": 4, "mode": "mxfp4"}),
        (Embedding(8, 64), {"group_size": 32, "bits": 4}),
        (Embedding(8, 64), {"group_size": 32, "bits": 6}),
    ],
    ids=["4 bits and a bias", "8 bits", "3 bits", "mxfp4", "embedding", "embedding in 6 bits"],
)
def test_every_quantised_layer_becomes_a_plain_one_with_the_same_answers(
    layer: Module, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "_LARGE", {4: 0, 8: 0})
    quantised: Any = layer.to_quantized(**form)
    model = Sequential(quantised)
    plain = isinstance(layer, Linear)
    inputs = mx.random.normal((2, 64)) if plain else mx.array([0, 3, 7])
    before = quantised(inputs)
    unpack_model(model)
    assert type(model.layers[0]) is type(layer)
    assert ("bias" in model.layers[0]) is ("bias" in layer)
    assert mx.allclose(model.layers[0](inputs), before, rtol=1e-4, atol=1e-4).item()
