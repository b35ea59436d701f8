"""The doctor's trial load of models that see: mlx-vlm builds them, their encoders included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.vision_models import seeing_model

pytest.importorskip("mlx_vlm")

from ollmlx_mlx.engine.dry_load import examine
from ollmlx_mlx_vlm.engine.model import read_seeing


@pytest.mark.parametrize("family", ["gemma3", "mistral3", "qwen3_5", "smolvlm"])
def test_a_model_that_sees_is_loaded_on_trial_with_its_encoder(tmp_path: Path, family: str) -> None:
    folder = seeing_model(tmp_path / family, family)
    assert examine(folder, read_seeing)[0] is None
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    key = next(one for one in ("hidden_size", "embed_dim") if one in config["vision_config"])
    config["vision_config"][key] *= 2
    file.write_text(json.dumps(config), encoding="utf-8")
    problem, _ = examine(folder, read_seeing)
    assert problem is not None
    assert "the weights do not fit config.json" in problem
