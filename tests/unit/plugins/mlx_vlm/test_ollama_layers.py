"""Models that see in Ollama's own layers for MLX: the same answers as from their folder, when the encoder is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.engine_requests import collect, running
from tests.pictures import base64_of, drawn
from tests.servers.ollama_folder import OllamaFolder
from tests.servers.ollama_tensors import tensor_layers
from tests.vision_models import seeing_model

pytest.importorskip("mlx_vlm")
pytestmark = pytest.mark.mlx

from ollmlx import ModelName  # noqa: E402 - what follows imports mlx-vlm
from ollmlx.plugin.loader import load_plugins  # noqa: E402
from ollmlx.settings import Settings  # noqa: E402
from ollmlx.types import GenerateRequest, InstalledModel, Message, Options  # noqa: E402
from ollmlx_mlx_vlm.engine.engine import MlxVlmEngine  # noqa: E402
from ollmlx_mlx_vlm.engine.model import read_seeing  # noqa: E402
from ollmlx_ollama_store.store import OllamaStore  # noqa: E402


def packed(folder: Path, family: str) -> Path:
    """Make the folder a model whose language model is packed in 4 bits."""
    from mlx.nn.layers.quantized import quantize
    from mlx_lm.utils import save_model

    model = read_seeing(seeing_model(folder, family))
    quantize(model.language_model, 32, 4, class_predicate=lambda _, layer: hasattr(layer, "to_quantized"))
    save_model(folder, model)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization"] = {"group_size": 32, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


async def stored(root: Path, folder: Path, *, without: str = "nothing") -> InstalledModel:
    layers = tensor_layers(folder)
    kept = {kind: {name: data for name, data in own.items() if without not in name} for kind, own in layers.items()}
    ollama = OllamaFolder(root / "models")
    ollama.add("m", kept, model_format="safetensors")
    found = await OllamaStore(ollama.root, root / "links").resolve(ModelName.parse("m"))
    assert found is not None
    return found


@pytest.mark.parametrize("family", ["gemma3", "qwen3_5"])
async def test_its_pictures_are_answered_as_from_its_folder(tmp_path: Path, family: str) -> None:
    folder = packed(tmp_path / family, family)
    model = await stored(tmp_path, folder)
    registry = load_plugins(Settings()).registry
    assert registry.backend_for(model).name == "mlx_vlm"
    picture = base64_of(drawn("red"))
    request = GenerateRequest(
        messages=(Message(role="user", content="what is it?", images=(picture,)),),
        options=Options(temperature=0, num_predict=6),
        top_logprobs=0,
    )
    answers = []
    for path in (folder, model.path):
        async with running(MlxVlmEngine(), path) as engine:
            answer = await collect(engine, request)
            answers.append([each.logprob for each in answer.logprobs])
    assert answers[0]
    assert answers[0] == pytest.approx(answers[1], abs=1e-5)


@pytest.mark.parametrize("without", ["vision", "processor"])
async def test_without_its_encoder_or_how_pictures_are_prepared_it_does_not_see(tmp_path: Path, without: str) -> None:
    model = await stored(tmp_path, seeing_model(tmp_path / "gemma3", "gemma3"), without=without)
    registry = load_plugins(Settings()).registry
    assert not registry.senses(model)
    assert registry.backend_for(model).name == "mlx"
