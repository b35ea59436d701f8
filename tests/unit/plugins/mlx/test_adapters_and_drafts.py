"""Adapters change the text, draft models only its speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from ollmlx.protocol import RunnerConfig
from ollmlx.testing.requests import ask, collect, config_for, together
from ollmlx.types import ModelDefaults
from ollmlx_mlx.engine.engine import MlxEngine

pytestmark = pytest.mark.mlx


def write_lora(into: Path, scale: float) -> Path:
    """Random LoRA weights of rank 4 on the queries and values of both layers, times `scale`."""
    into.mkdir()
    mx.random.seed(3)
    weights: dict[str, mx.array] = {}
    for layer in range(2):
        for name, width in (("q_proj", 64), ("v_proj", 32)):
            path = f"model.layers.{layer}.self_attn.{name}"
            weights[f"{path}.lora_a"] = mx.random.normal((64, 4))
            weights[f"{path}.lora_b"] = mx.random.normal((4, width)) * scale
    mx.save_safetensors(str(into / "adapters.safetensors"), weights)
    keys = ["self_attn.q_proj", "self_attn.v_proj"]
    lora = {"rank": 4, "scale": 1.0, "dropout": 0.0, "keys": keys}
    about = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": lora}
    (into / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")
    return into


def with_adapter(folder: Path, adapter: Path | None, weights: str) -> RunnerConfig:
    config = config_for(folder, engine_options={"weights": weights})
    model = config.model.model_copy(update={"defaults": ModelDefaults(adapter=adapter)})
    return config.model_copy(update={"model": model})


@pytest.mark.parametrize("architecture", ["llama"], indirect=True)
@pytest.mark.parametrize("weights", ["float32", "packed"])
async def test_only_an_adapter_that_says_something_changes_the_text(
    architecture: Path, weights: str, tmp_path: Path
) -> None:
    requests = [ask("one two three"), ask("something else", options={"temperature": 0.8, "seed": 4})]
    said: dict[str, Any] = {}
    for name, scale in (("none", None), ("zero", 0.0), ("loud", 1.0)):
        engine = MlxEngine()
        adapter = None if scale is None else write_lora(tmp_path / name, scale)
        await engine.load(with_adapter(architecture, adapter, weights))
        alone = [(await collect(engine, request)).done.context for request in requests]
        batch = [one.done.context for one in await together(engine, requests)]
        assert batch == alone
        assert (f"adapter {name}" in engine.status().notes) == (adapter is not None)
        said[name] = alone
        await engine.close()
    assert said["zero"] == said["none"]
    assert all(loud != plain for loud, plain in zip(said["loud"], said["none"], strict=True))


GREEDY: dict[str, Any] = {"num_predict": 30}
SEEDED: dict[str, Any] = {"num_predict": 30, "temperature": 0.9, "seed": 5}


def with_draft(folder: Path, draft: Path | None) -> RunnerConfig:
    config = config_for(folder)
    model = config.model.model_copy(update={"defaults": ModelDefaults(draft=draft)})
    return config.model_copy(update={"model": model})


# Two that can take tokens back, and one that cannot.
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mamba2"], indirect=True)
@pytest.mark.parametrize("options", [GREEDY, SEEDED])
async def test_the_text_is_the_same_with_a_draft_model(architecture: Path, options: dict[str, Any]) -> None:
    texts, steps = [], []
    for draft in (None, architecture):
        engine = MlxEngine()
        await engine.load(with_draft(architecture, draft))
        request = ask("one two three", options=options)
        before = engine.status().progress
        alone = await collect(engine, request)
        steps.append(engine.status().progress - before)
        again = await collect(engine, request)
        pair = await together(engine, [request, ask("other", options=options)])
        texts.append([one.done.context for one in (alone, again, *pair)])
        await engine.close()
    assert texts[0] == texts[1]
    if architecture.name != "mamba2" and options is GREEDY:
        # Here the draft is the model itself: every guess is right.
        assert steps[1] < steps[0] / 2
