"""Eighteen architectures of mlx-lm, tiny and random: accepted, loaded, computed with, and estimated rightly."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache

from ollmlx import ModelName, RunnerConfig
from ollmlx.types import InstalledModel
from ollmlx_mlx.daemon.backend import MlxBackend, MlxSettings
from ollmlx_mlx.daemon.estimate import cache_shape
from ollmlx_mlx.daemon.known_models import KnownModels, installed_mlx_lm
from ollmlx_mlx.daemon.machine import MlxMachine
from ollmlx_mlx.engine.load import load_model
from ollmlx_mlx.folder import weight_sizes

pytestmark = pytest.mark.mlx


def installed(folder: Path) -> InstalledModel:
    now = datetime.now(UTC)
    name = ModelName.parse(folder.name)
    return InstalledModel(name=name, store="hub", format="mlx", path=folder, digest="0" * 64, size=1, modified_at=now)


def test_it_is_accepted_and_estimated(architecture: Path) -> None:
    backend = MlxBackend(
        MlxSettings(),
        MlxMachine("linux", "x86_64", "", 2, {"mlx": "1", "mlx-cpu": "1"}),
        budget=lambda: 1 << 33,
        trusted=lambda model: False,
        mlx_lm=installed_mlx_lm(),
    )
    assert backend.accepts(installed(architecture)) is None
    assert backend.estimate(installed(architecture), 2048, 2).total > 0


def test_it_loads_and_computes_and_its_caches_are_as_large_as_estimated(architecture: Path) -> None:
    config = RunnerConfig(runner="r", token="t", model=installed(architecture), context_length=2048)
    loaded = load_model(config)
    content = json.loads((architecture / "config.json").read_text(encoding="utf-8"))
    expected = sum(array.nbytes for array in _arrays(loaded.model))
    assert weight_sizes(architecture, content).float32 == pytest.approx(expected, rel=0.05)

    cache = make_prompt_cache(loaded.model)
    tokens = mx.arange(300)[None] % 800
    logits = loaded.model(tokens, cache=cache)
    mx.eval(logits)
    for _ in range(3):  # one at a time, as answers are computed
        logits = loaded.model(mx.array([[7]]), cache=cache)
        mx.eval(logits)
    assert mx.all(mx.isfinite(logits)).item()
    folder = installed_mlx_lm()
    assert folder is not None
    known = KnownModels(folder)
    shape = cache_shape(known.complete(content), rotates=known.rotates(content), latents=known.keeps_latents(content))
    width = 4 if loaded.device == "cpu" else 2
    used = sum(layer.nbytes for layer in cache)
    estimated = shape.values(303) * width
    assert estimated >= 0.98 * used - shape.windowed * 256 * width
    assert estimated <= 1.15 * used + 3 * shape.fixed * width + shape.windowed * 256 * width


def _arrays(model: Module) -> list[mx.array]:
    flat: Any = tree_flatten(model.parameters())
    return [array for _, array in flat]
