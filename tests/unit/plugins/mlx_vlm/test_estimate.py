"""The memory of models that see: what the encoder of a real model needs for its largest picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.random_models import write_folder

from ollmlx.plugin.loader import load_plugins
from ollmlx.settings import Settings
from ollmlx.testing import fake_model

MIB = 1 << 20
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "patch_size": 14}
QWEN = {"hidden_size": 1280, "intermediate_size": 3420, "patch_size": 14}
TILES = {"max_image_size": {"longest_edge": 384}}
TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99}


@pytest.mark.parametrize(
    ("family", "eyes", "prepares", "mib"),
    [
        ("gemma3", {**SIGLIP, "image_size": 896}, {}, 175),
        ("smolvlm", {**SIGLIP, "image_size": 384}, {"size": {"longest_edge": 1536}, **TILES}, 547),
        ("qwen2_5_vl", QWEN, {"max_pixels": 12845056}, 2775),
        ("qwen2_5_vl", QWEN, {"max_pixels": 10**9}, 3624),
        ("qwen2_5_vl", {"hidden_size": "?"}, {"max_pixels": -1}, 33),
    ],
)
def test_the_largest_picture_has_room(
    tmp_path: Path, family: str, eyes: dict[str, Any], prepares: dict[str, Any], mib: int
) -> None:
    config = {"model_type": family, "text_config": TEXT, "vision_config": eyes, **TEXT}
    folder = write_folder(tmp_path / family, config, preprocessor_config=prepares)
    model = fake_model("m", format="mlx", path=folder)
    registry = load_plugins(Settings()).registry
    seeing, reading = (registry.backend(name).estimate(model, 1024, 1) for name in ("mlx_vlm", "mlx"))
    width = 1 if registry.backend("mlx").device == "cpu" else 2  # type: ignore[attr-defined]
    assert (seeing.overhead - reading.overhead) * width // MIB == mib
    assert seeing.weights == reading.weights
