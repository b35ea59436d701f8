"""The backend for clusters in the daemon: what it charges this machine, what it refuses, and what it launches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ollmlx import LaunchOptions
from ollmlx.errors import ConfigError, Unsupported
from ollmlx.plugin.contracts import Backend, Spreader
from ollmlx.plugin.loader import load_plugins
from ollmlx.settings import Settings
from ollmlx.testing import fake_model
from ollmlx.types import InstalledModel, ModelDefaults
from ollmlx_cluster.backend import ClusterBackend, share
from ollmlx_mlx.daemon.backend import MlxBackend, MlxSettings
from ollmlx_mlx.daemon.estimate import MIB, CacheShape, ModelFacts, estimate
from ollmlx_mlx.daemon.known_models import installed_mlx_lm
from ollmlx_mlx.daemon.machine import MlxMachine
from ollmlx_mlx.folder import WeightSizes

CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
FACTS = ModelFacts(
    "cpu",
    "float32",
    WeightSizes(stored=100 * MIB, float32=800 * MIB, packed=110 * MIB, quantized=True),
    CacheShape(11520),
    {"num_hidden_layers": 30, "vocab_size": 1024, "hidden_size": 1024, "tie_word_embeddings": True},
)


def backend(kind: type[MlxBackend] = ClusterBackend) -> Any:
    machine = MlxMachine("linux", "x86_64", "Some CPU", 2, {"mlx": "1", "mlx-cpu": "1"}, root=Path("/nowhere"))
    return kind(MlxSettings(), machine, budget=lambda: 8 << 30, trusted=lambda model: False, mlx_lm=installed_mlx_lm())


@pytest.fixture
def model(tmp_path: Path) -> InstalledModel:
    return written(tmp_path, CONFIG)


def written(folder: Path, config: dict[str, Any]) -> InstalledModel:
    """A model's folder with one small tensor."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    raw = json.dumps({"w": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))
    return fake_model("big").model_copy(update={"format": "mlx", "path": folder})


def test_it_is_registered_beside_the_mlx_backend_which_spreads_nothing() -> None:
    backends = load_plugins(Settings()).registry.backends
    assert isinstance(backends.get("cluster"), Backend)
    assert isinstance(backends.get("cluster"), Spreader)
    assert not isinstance(backends.get("mlx"), Spreader)


def test_without_a_cluster_the_mlx_backend_runs_the_model(model: InstalledModel) -> None:
    assert backend().accepts(model) is None
    registry = load_plugins(Settings()).registry
    assert registry.backend_for(model).name == "mlx"
    with pytest.raises(ConfigError, match="no hosts"):
        backend().command(model, LaunchOptions(context_length=64))


def test_a_group_computes_on_one_stream_a_rank_and_says_so_in_its_notes(model: InstalledModel) -> None:
    options = LaunchOptions(context_length=64, cluster={"hosts": ["localhost", "localhost"]})
    command = backend().command(model, options)
    assert command.argv[2:4] == ("-m", "ollmlx_cluster.launch")
    assert command.engine_options["streams"] == 1
    assert command.engine_options["notes"][-1] == "a group of 2 (tensor, ring)"


def test_a_group_is_charged_for_the_ranks_of_this_machine(model: InstalledModel) -> None:
    alone = backend().estimate(model, 4096, 1)
    here = backend().share(model, 4096, 4, {"hosts": ["localhost", "localhost", "node2", "node3"]})
    assert here.overhead == 2 * alone.overhead  # a group serves one request at a time, whatever `parallel` says
    assert here.kv_cache == alone.kv_cache // 2
    with pytest.raises(ConfigError, match="at least two"):
        backend().share(model, 4096, 1, {"hosts": ["localhost"]})
    with pytest.raises(ConfigError, match="4 attention heads cannot be divided among 3 hosts"):
        backend().share(model, 4096, 1, {"hosts": ["localhost"] * 3})
    assert backend().share(model, 4096, 1, {"hosts": ["localhost"] * 3, "mode": "pipeline"}).kv_cache


@pytest.mark.parametrize(("here", "ranks"), [(1, 2), (1, 4), (2, 3)])
def test_each_rank_is_charged_for_its_part_and_the_whole_embedding(here: int, ranks: int) -> None:
    alone, part = estimate(FACTS, 4096, 1), share(FACTS, 4096, ranks, here, split_cache=True)
    embedding = int(1024 * 1024 * 4 * 1.05)
    assert part.weights == here * (embedding + (alone.weights - embedding) // ranks)
    assert part.kv_cache == here * alone.kv_cache // ranks
    assert part.overhead == here * alone.overhead
    assert share(FACTS, 4096, ranks, here, split_cache=False).kv_cache == here * alone.kv_cache
    untied = ModelFacts("cpu", "float32", FACTS.sizes, FACTS.cache, {**FACTS.config, "tie_word_embeddings": False})
    assert share(untied, 4096, ranks, here, split_cache=True).weights > part.weights


@pytest.mark.parametrize("mode", ["tensor", "pipeline"])
def test_latent_caches_are_whole_on_each_rank_unless_layers_are_divided(tmp_path: Path, mode: str) -> None:
    found = written(tmp_path, {**CONFIG, "model_type": "deepseek_v3", "kv_lora_rank": 16, "qk_rope_head_dim": 8})
    alone = backend().estimate(found, 4096, 1)
    here = backend().share(found, 4096, 1, {"hosts": ["localhost", "node2"], "mode": mode})
    assert here.kv_cache == (alone.kv_cache if mode == "tensor" else alone.kv_cache // 2)


@pytest.mark.parametrize("what", ["adapter", "draft"])
def test_what_a_group_cannot_load_is_refused(model: InstalledModel, what: str) -> None:
    found = model.model_copy(update={"defaults": ModelDefaults.model_validate({what: model.path})})
    with pytest.raises(Unsupported, match=f"cannot be spread with its {what}"):
        backend().share(found, 4096, 1, {"hosts": ["localhost", "node2"]})
