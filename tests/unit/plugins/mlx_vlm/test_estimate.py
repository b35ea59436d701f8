"""The memory of models that see: what the encoder of a real model needs for its largest picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.random_models import write_folder

from ollmlx.plugin.loader import load_plugins
from ollmlx.settings import Settings
from ollmlx.testing import fake_model
from ollmlx_mlx_vlm.work_space import work_space

MIB = 1 << 20
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "patch_size": 14}
QWEN = {"hidden_size": 1280, "intermediate_size": 3420, "patch_size": 14}
QWEN3 = {"hidden_size": 1152, "intermediate_size": 4304, "patch_size": 16, "deepstack_visual_indexes": [8, 16, 24]}
INTERN = {"hidden_size": 1024, "intermediate_size": 4096, "patch_size": 14, "image_size": 448}
TILES = {"max_image_size": {"longest_edge": 384}}
TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99}


@pytest.mark.parametrize(
    ("family", "eyes", "prepares", "gpu", "cpu"),
    [
        ("gemma3", {**SIGLIP, "image_size": 896}, {}, 88, 1201),
        ("smolvlm", {**SIGLIP, "image_size": 384}, {"size": {"longest_edge": 1536}, **TILES}, 274, 1135),
        ("qwen2_5_vl", QWEN, {"max_pixels": 12845056}, 1388, 1199),
        ("qwen2_5_vl", QWEN, {"max_pixels": 10**9}, 1813, 1199),
        ("qwen3_vl", QWEN3, {"size": {"longest_edge": 16777216}}, 1406, 1207),
        ("internvl_chat", INTERN, {"max_dynamic_patch": 12}, 261, 1354),
        ("llava_onevision", SIGLIP, {"image_grid_pinpoints": [[384, 384], [2304, 2304], "?"]}, 596, 2469),
        ("kimi_vl", SIGLIP, {"in_token_limit": 4096}, 88, 1201),
        ("gemma4", {"hidden_size": 768, "patch_size": 16}, {"max_soft_tokens": 280, "pooling_kernel_size": 3}, 37, 463),
        ("qwen2_5_vl", {"hidden_size": "?"}, {"max_pixels": -1}, 17, 69),
    ],
)
def test_the_largest_picture_has_room(
    tmp_path: Path, family: str, eyes: dict[str, Any], prepares: dict[str, Any], gpu: int, cpu: int
) -> None:
    config = {"model_type": family, "text_config": TEXT, "vision_config": eyes, **TEXT, **prepares}
    folder = write_folder(tmp_path / family, config, preprocessor_config=prepares)
    assert [work_space(folder, 2, on_cpu=False) // MIB, work_space(folder, 4, on_cpu=True) // MIB] == [gpu, cpu]
    registry = load_plugins(Settings()).registry
    model = fake_model("m", format="mlx", path=folder)
    seeing, reading = (registry.backend(name).estimate(model, 1024, 1) for name in ("mlx_vlm", "mlx"))
    assert (seeing.overhead - reading.overhead) // MIB in (gpu, cpu)
    assert seeing.weights == reading.weights
