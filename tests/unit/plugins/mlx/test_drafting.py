"""A draft model changes how fast the text comes, never the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ollmlx.protocol import RunnerConfig
from ollmlx.testing.requests import ask, collect, config_for, together
from ollmlx.types import ModelDefaults
from ollmlx_mlx.engine.engine import MlxEngine

pytestmark = pytest.mark.mlx
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
