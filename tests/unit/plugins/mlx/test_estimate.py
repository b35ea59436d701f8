"""The memory estimate: from headers and config.json alone, and never too low."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx import SafetensorsTensor
from ollmlx_mlx.daemon.estimate import (
    MIB,
    PROCESS,
    CacheShape,
    ModelFacts,
    bytes_per_value,
    cache_shape,
    choose_form,
    estimate,
    pool_tokens,
)
from ollmlx_mlx.folder import WeightSizes, sizes_of

LLAMA = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576}
SIZES = WeightSizes(stored=100 * MIB, float32=800 * MIB, packed=110 * MIB, quantized=True)


def shape(config: dict[str, Any], *, rotates: bool = True, latents: bool = True) -> CacheShape:
    return cache_shape(config, rotates=rotates, latents=latents)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LLAMA, CacheShape(per_token=30 * 2 * 3 * 64)),
        ({**LLAMA, "head_dim": 128}, CacheShape(per_token=30 * 2 * 3 * 128)),
        # Without a window nothing is forgotten.
        ({**LLAMA, "model_type": "gemma3_text", "sliding_window_pattern": 6}, CacheShape(per_token=30 * 384)),
        ({"n_layer": 2, "n_head": 4, "n_embd": 64}, CacheShape(per_token=2 * 2 * 4 * 16)),
        (
            {**LLAMA, "sliding_window_pattern": 6, "sliding_window": 512},
            CacheShape(per_token=5 * 384, windowed=25 * 384, window=512),
        ),
        (
            {**LLAMA, "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
            | {"sliding_window": 128},
            CacheShape(per_token=2 * 384, windowed=2 * 384, window=256),
        ),
        ({**LLAMA, "num_hidden_layers": 4, "model_type": "gpt_oss", "sliding_window": 128}, CacheShape(768, 768, 256)),
        # Mistral states a window that mlx-lm does not use.
        ({**LLAMA, "model_type": "mistral", "sliding_window": 4096}, CacheShape(30 * 384, 0, 4096)),
        (
            {**LLAMA, "num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64},
            CacheShape(per_token=61 * 576),
        ),
    ],
)
def test_what_a_token_costs_in_attention_layers(config: dict[str, Any], expected: CacheShape) -> None:
    assert shape(config) == expected


def test_windows_that_mlx_lm_does_not_honour_do_not_count_and_latents_that_it_unfolds_do() -> None:
    config = {**LLAMA, "layer_types": ["sliding_attention"] * 30, "sliding_window": 128}
    assert shape(config, rotates=False).per_token == 30 * 384
    config = {"num_hidden_layers": 2, "num_attention_heads": 4, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    config |= {"qk_nope_head_dim": 128, "v_head_dim": 128}
    assert shape(config, latents=False).per_token == 2 * 4 * (64 + 128 + 128)


@pytest.mark.parametrize(
    ("config", "full", "states"),
    [
        ({"model_type": "mamba2", "num_heads": 8, "head_dim": 64, "state_size": 16, "num_hidden_layers": 4}, 0, 4),
        ({**LLAMA, "num_hidden_layers": 8, "full_attention_interval": 4}, 2, 6),
        ({**LLAMA, "num_hidden_layers": 8, "attn_layer_period": 4, "attn_layer_offset": 2}, 2, 6),
        ({**LLAMA, "num_hidden_layers": 4, "full_attn_idxs": [1]}, 1, 3),
        ({**LLAMA, "num_hidden_layers": 5, "hybrid_override_pattern": "M-*ME"}, 1, 2),
        ({**LLAMA, "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "conv"]}, 1, 2),
        ({**LLAMA, "num_hidden_layers": 2, "model_type": "falcon_h1"}, 2, 2),
    ],
)
def test_state_space_layers_cost_once_whatever_the_length(config: dict[str, Any], full: int, states: int) -> None:
    found = shape(config)
    assert found.per_token == full * 384
    assert (found.fixed > 0) == (states > 0)
    assert found.values(4096) - found.values(2048) == full * 384 * 2048


@given(st.dictionaries(st.sampled_from([*LLAMA, "sliding_window", "layer_types", "head_dim", "text_config"]), st.none()
    | st.integers() | st.text(max_size=4) | st.lists(st.integers(), max_size=3)))  # fmt: skip
def test_nonsense_in_a_configuration_never_raises(config: dict[str, Any]) -> None:
    assert shape(config).values(4096) >= 0


def test_lengths_are_rounded_up_as_caches_grow() -> None:
    assert CacheShape(per_token=10).values(1) == 2560
    assert CacheShape(per_token=10, windowed=1, window=512, fixed=3).values(1000) == 10240 + 512 + 3


TENSORS = {
    "model.embed_tokens.weight": SafetensorsTensor("U32", (100, 16), 6400),
    "model.embed_tokens.scales": SafetensorsTensor("F16", (100, 2), 400),
    "model.embed_tokens.biases": SafetensorsTensor("F16", (100, 2), 400),
    "model.layers.0.q.weight": SafetensorsTensor("U32", (64, 8), 2048),
    "model.layers.0.q.scales": SafetensorsTensor("F16", (64, 2), 256),
    "model.layers.0.q.biases": SafetensorsTensor("F16", (64, 2), 256),
    "model.layers.0.q.bias": SafetensorsTensor("F16", (64,), 128),
    "model.norm.weight": SafetensorsTensor("BF16", (64,), 128),
    "table": SafetensorsTensor("I32", (4,), 16),
}


def test_weights_are_counted_in_every_form_they_can_take() -> None:
    found = sizes_of(TENSORS, {"quantization": {"group_size": 32, "bits": 4}})
    assert found.stored == sum(tensor.nbytes for tensor in TENSORS.values())
    assert found.float32 == 4 * (100 * 64 + 64 * 64 + 64 + 64) + 16
    assert found.packed == 6400 + 2048 + 2 * (800 + 512) + 256 + 256 + 16
    assert found.quantized


@pytest.mark.parametrize(
    ("device", "quantized", "wish", "budget", "form"),
    [
        ("metal", True, "auto", 1 << 40, "stored"),
        ("cuda", True, "float32", 1 << 40, "stored"),
        ("cpu", False, "quantized", 0, "float32"),
        ("cpu", True, "quantized", 1 << 40, "packed"),
        ("cpu", True, "float32", 0, "float32"),
        ("cpu", True, "auto", 2000 * MIB, "float32"),
        ("cpu", True, "auto", 1999 * MIB, "packed"),
    ],
)
def test_the_form_of_weights_follows_device_wish_and_budget(
    device: Any, quantized: bool, wish: str, budget: int, form: str
) -> None:
    sizes = WeightSizes(SIZES.stored, SIZES.float32, SIZES.packed, quantized)
    chosen, why = choose_form(device, sizes, wish, budget)
    assert chosen == form
    assert why


def facts(**changes: Any) -> ModelFacts:
    base = {"device": "cpu", "form": "float32", "sizes": SIZES, "cache": CacheShape(11520), "config": LLAMA}
    return ModelFacts(**{**base, **changes})


BUDGET = 16 << 30


def test_the_estimate_adds_weights_caches_and_the_process() -> None:
    need = estimate(facts(), 8192, 2, BUDGET)
    assert need.weights == int(800 * MIB * 1.05)
    assert need.kv_cache == ((2 * 8192 + 2 * 256) * 11520 + 8192 * 11520 // 30) * 4
    assert need.overhead > PROCESS["cpu"]
    assert need.kv_per_token == 46080
    assert estimate(facts(form="packed"), 8192, 2, BUDGET).weights == int(110 * MIB * 1.05)
    assert estimate(facts(form="stored", device="metal"), 8192, 2, BUDGET).kv_cache == need.kv_cache // 2


@pytest.mark.parametrize(
    ("context", "parallel", "budget", "expected"),
    [
        (2048, 0, BUDGET, 32768),  # 16 short ones
        (1024, 0, BUDGET, 16384),
        (8192, 0, BUDGET, 32768),
        (8192, 0, 2048 * MIB, 15_468),  # what there is room for
        (8192, 0, 0, 8192),  # one whole context, although it does not fit
        (131072, 0, BUDGET, 131072),  # one whole context, which all share
        (8192, 1, BUDGET, 8192),
        (65536, 2, BUDGET, 131072),
        (65536, 16, BUDGET, 153_000),  # what half of the budget holds
        (65536, 16, 0, 65536),
    ],
)
def test_the_pool_holds_one_context_at_least_and_as_many_as_a_stated_width_asks_for(
    context: int, parallel: int, budget: int, expected: int
) -> None:
    assert pool_tokens(facts(), context, parallel, budget) == pytest.approx(expected, rel=0.01)


def test_windows_and_states_are_charged_for_each_sequence() -> None:
    window = facts(cache=CacheShape(per_token=0, windowed=100, window=512))
    assert estimate(window, 8192, 4, BUDGET).kv_cache == (4 * 512 * 100 + 512 * 100 // 30) * 4
    states = facts(cache=CacheShape(per_token=0, fixed=1000))
    assert estimate(states, 8192, 4, BUDGET).kv_cache == (4 * 1000 + 1000 // 30) * 4


@pytest.mark.parametrize(("kind", "value"), [("auto", 2), ("f16", 2), ("q8_0", 1.0625), ("q4_0", 0.5625)])
def test_a_quantised_cache_costs_less(kind: str, value: float) -> None:
    assert bytes_per_value(facts(form="stored", device="metal", kv_cache_type=kind)) == value
