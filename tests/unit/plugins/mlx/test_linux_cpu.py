"""Linux CPUs: the same numbers and answers from tiles, halves and two streams, and without the folder `linux_cpu`."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from mlx.nn.layers.base import Module
from mlx.nn.layers.containers import Sequential
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx_lm.models import gemma, llama, qwen3
from tests.random_models import ARCHITECTURES, random_model

import ollmlx_mlx
from ollmlx_mlx.linux_cpu import layers
from ollmlx_mlx.linux_cpu.layers import (
    DividedEmbedding,
    DividedFeedForward,
    DividedLinear,
    DividedQuantizedEmbedding,
    DividedQuantizedLinear,
    divide_layers,
    divided,
    divided_feed_forward,
    product,
    tile_of,
)
from ollmlx_mlx.linux_cpu.layers import attention as divided_attention
from ollmlx_mlx.linux_cpu.memory import trim_heap

pytestmark = pytest.mark.mlx


def close(one: mx.array, other: mx.array) -> bool:
    return bool(mx.allclose(one, other, rtol=1e-4, atol=1e-4).item())


@settings(max_examples=50, deadline=None)
@given(
    shape=some.one_of(some.lists(some.integers(1, 5), max_size=2), some.sampled_from([(64,), (2, 33)])),
    features=some.integers(1, 24),
    outputs=some.sampled_from([1, 2, 3, 511, 1023, 1700, 3072, 3073, 5000]),
)
@pytest.mark.parametrize("compute", [product, divided])
@pytest.mark.parametrize("small", [False, True])
@pytest.mark.usefixtures("two_streams")
def test_tiles_and_halves_give_the_product_that_the_whole_gives(
    compute: Any, small: bool, shape: Sequence[int], features: int, outputs: int
) -> None:
    inputs = mx.random.normal((*shape, features))
    weight = mx.random.normal((outputs, features))
    with patch.object(layers, "has_small_products", lambda: small):
        found = compute(inputs, weight)
    assert found.shape == (*shape, outputs)
    assert close(found, inputs @ weight.T)


@pytest.mark.parametrize(
    ("rows", "outputs", "features", "small", "other"),
    [
        (1, 49152, 576, 1200, 49152),
        (1, 576, 576, 1200, 576),
        (1, 1536, 8960, 96, 1536),
        (6, 49152, 576, 192, 512),
        (7, 49152, 576, 512, 512),
        (6, 4096, 65536, 4096, 512),
    ],
)
def test_a_tile_is_as_large_as_the_blas_reads_it_straight_through(
    rows: int, outputs: int, features: int, small: int, other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reads_small, expected in [(True, small), (False, other)]:
        monkeypatch.setattr(layers, "has_small_products", lambda found=reads_small: found)
        assert tile_of(rows, outputs, features) == expected


WEIGHTS = 512 * 512


@pytest.mark.usefixtures("two_streams")
def test_a_thread_without_a_second_stream_computes_everything_on_its_own() -> None:
    found: list[bool] = []
    thread = Thread(target=lambda: found.append(layers.divides(10**12)))
    thread.start()
    thread.join()
    assert found == [False]
    assert layers.divides(10**12)


@pytest.mark.usefixtures("second_stream")
def test_the_two_halves_are_computed_on_two_streams() -> None:
    used: list[str] = []

    def half() -> mx.array:
        used.append(str(mx.default_stream(mx.Device(mx.DeviceType.cpu))))
        return mx.ones(2)

    assert [part.tolist() for part in layers.side_by_side(half, half)] == [[1, 1], [1, 1]]
    assert len(set(used)) == 2


@pytest.mark.usefixtures("second_stream")
def test_what_is_quickly_done_is_not_divided() -> None:
    assert not layers.divides(layers.effort(1, WEIGHTS))
    assert layers.divides(layers.effort(512, WEIGHTS))


@pytest.mark.usefixtures("two_streams")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("rows", [(1,), (2,), (2, 3), (1, 40)])
@pytest.mark.parametrize("outputs", [64, 99, 1100])
def test_quantised_layers_in_halves_compute_as_before(bits: int, rows: tuple[int, ...], outputs: int) -> None:
    linear, embedding = Linear(64, outputs), Embedding(outputs, 64)
    block = Sequential(linear.to_quantized(32, bits), embedding.to_quantized(32, bits))
    inputs = mx.random.normal((*rows, 64))
    before = block.layers[0](inputs), block.layers[1].as_linear(inputs), block.layers[1](mx.array([3]))
    divide_layers(block, streams=1)
    assert [type(layer) for layer in block.layers] == [DividedQuantizedLinear, DividedQuantizedEmbedding]
    after = block.layers[0](inputs), block.layers[1].as_linear(inputs), block.layers[1](mx.array([3]))
    assert all(map(close, before, after))


@pytest.mark.usefixtures("two_streams")
def test_half_precision_layers_are_left_alone_and_all_others_compute_as_before() -> None:
    linear, embedding, half = Linear(32, 4000), Embedding(4000, 32), Linear(32, 64)
    half.set_dtype(mx.float16)
    model = Sequential(linear, embedding, half)
    inputs = mx.random.normal((2, 3, 32))
    before = linear(inputs), embedding.as_linear(inputs)
    divide_layers(model, streams=1)
    assert [type(layer) for layer in model.layers] == [DividedLinear, DividedEmbedding, Linear]
    assert all(map(close, before, (linear(inputs), embedding.as_linear(inputs))))
    assert embedding(mx.array([1, 2])).shape == (2, 32)


@pytest.mark.usefixtures("two_streams")
@pytest.mark.parametrize("rows", [(1, 1), (2, 1), (1, 7), (3, 70)])
@pytest.mark.parametrize("hidden", [512, 513])
def test_a_feed_forward_block_in_halves_computes_as_before(rows: tuple[int, int], hidden: int) -> None:
    block = llama.MLP(llama.ModelArgs("llama", 512, 1, hidden, 4, 1e-5, 10))
    inputs = mx.random.normal((*rows, 512))
    halves = divided_feed_forward(block)
    assert isinstance(halves, DividedFeedForward)
    assert close(halves(inputs), block(inputs))


def half_precision(block: Module) -> Module:
    block.set_dtype(mx.bfloat16)
    return block


@pytest.mark.usefixtures("two_streams")
@pytest.mark.parametrize(
    "make",
    [
        lambda: llama.MLP(llama.ModelArgs("llama", 512, 1, 512, 4, 1e-5, 10, mlp_bias=True)),
        lambda: half_precision(qwen3.MLP(512, 512)),
        lambda: gemma.MLP(512, 512),
        lambda: qwen3.MLP(64, 64),
    ],
    ids=["bias", "half precision", "another function", "too small"],
)
def test_other_blocks_are_left_alone(make: Any) -> None:
    assert divided_feed_forward(make()) is None


@pytest.mark.usefixtures("two_streams")
@pytest.mark.parametrize(("batch", "queries", "keys"), [(1, 2, 2), (1, 5, 9), (3, 33, 33), (2, 4, 20)])
@pytest.mark.parametrize("mask", ["none", "causal", "window", "rows"])
def test_attention_in_halves_is_what_the_whole_is(batch: int, queries: int, keys: int, mask: str) -> None:
    q = mx.random.normal((batch, 6, queries, 16))
    k, v = (mx.random.normal((batch, 2, keys, 16)) for _ in "kv")
    causal = mx.arange(keys - queries, keys)[:, None] >= mx.arange(keys)
    given: Any = {
        "none": None,
        "causal": "causal",
        "window": mx.where(causal, 0.0, -1e9),
        "rows": mx.broadcast_to(causal, (batch, 1, queries, keys)),
    }[mask]
    whole = layers._whole(q, k, v, scale=0.25, mask=given)
    assert close(divided_attention(q, k, v, scale=0.25, mask=given), whole)


@pytest.mark.usefixtures("two_streams")
def test_a_suited_model_gives_the_logits_it_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", layers._whole)  # undone afterwards
    model = llama.Model(llama.ModelArgs("llama", 512, 2, 1024, 8, 1e-5, 4000, num_key_value_heads=2))
    tokens = mx.array([[1, 2, 3, 4, 5, 6, 7, 8]] * 3)
    before = model(tokens)
    mx.eval(before)
    divide_layers(model, streams=2)
    assert isinstance(model.layers[1].mlp, DividedFeedForward)
    assert mx.fast.scaled_dot_product_attention is divided_attention
    assert close(model(tokens), before)


def test_freed_memory_goes_back_to_the_system_where_the_c_library_can_do_that() -> None:
    assert trim_heap() is hasattr(ctypes.CDLL(None), "malloc_trim")
    assert trim_heap(SimpleNamespace()) is False  # type: ignore[arg-type]


PROGRAM = """
import asyncio, json, sys
from pathlib import Path
import ollmlx_mlx
from ollmlx.plugin.loader import load_plugins
from ollmlx.settings import Settings
from tests.engine_requests import ask, collect, running
from ollmlx_mlx.engine.engine import MlxEngine

async def main():
    backend = load_plugins(Settings()).registry.backends.get("mlx")
    blas, advice = backend.blas(), backend.blas_advice()
    async with running(MlxEngine(), Path(sys.argv[1])) as engine:
        text = (await collect(engine, ask("one two three"))).done.context
    loaded = [name for name in sys.modules if name.startswith("ollmlx_mlx.linux_cpu")]
    print(json.dumps([ollmlx_mlx.__file__, blas.env, advice.speed_up, text, loaded]))

asyncio.run(main())
"""


def run(folder: Path, path: str = "") -> Any:
    argv, env = [sys.executable, "-c", PROGRAM, str(folder)], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_daemon_and_engine_work_without_the_folder(tmp_path: Path, tiny_vocabulary: dict[str, Any]) -> None:
    model = random_model(tmp_path / "llama", ARCHITECTURES["llama"], tiny_vocabulary)
    whole = Path(ollmlx_mlx.__file__).parent
    copy = tmp_path / "plugins" / "ollmlx_mlx"
    shutil.copytree(whole, copy, ignore=shutil.ignore_patterns("linux_cpu", "__pycache__"))
    file, env, speed_up, text, loaded = run(model, str(copy.parent))
    assert (Path(file).parent, env, speed_up, loaded) == (copy, {}, None, [])
    assert text == run(model)[3]
