"""The backend for clusters: its charges, refusals and command, and the arguments of mlx.launch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.random_models import write_folder

from ollmlx import LaunchOptions, RunnerCommand
from ollmlx.errors import ConfigError, Unsupported
from ollmlx.plugin.loader import load_plugins
from ollmlx.protocol import ExitCode
from ollmlx.runner.startup import CannotStart
from ollmlx.settings import Settings
from ollmlx.testing import fake_model
from ollmlx.types import InstalledModel, ModelDefaults
from ollmlx_cluster import hosts as hosts_module
from ollmlx_cluster.backend import ClusterBackend, cluster_command, share
from ollmlx_cluster.hosts import check_heads, members
from ollmlx_mlx.daemon.backend import MlxSettings
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


def backend() -> ClusterBackend:
    machine = MlxMachine("linux", "x86_64", "Some CPU", 2, {"mlx": "1", "mlx-cpu": "1"}, root=Path("/nowhere"))
    budget, trusted = (lambda: 8 << 30), (lambda model: False)
    return ClusterBackend(MlxSettings(), machine, budget=budget, trusted=trusted, mlx_lm=installed_mlx_lm())


@pytest.fixture
def model(tmp_path: Path) -> InstalledModel:
    return written(tmp_path, CONFIG)


def written(folder: Path, config: dict[str, Any]) -> InstalledModel:
    return fake_model("big", format="mlx", path=write_folder(folder, config))


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


ALONE = RunnerCommand(argv=("python",), env={"LD_PRELOAD": "x"}, engine_options={"weights": "float32", "notes": ["n"]})


def plan_of(command: RunnerCommand) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(command.argv[command.argv.index("--plan") + 1])
    return plan


@pytest.fixture
def host_file(tmp_path: Path) -> Path:
    path = tmp_path / "hosts.json"
    mac1 = {"ssh": "mac1.local", "ips": ["192.0.2.1"], "rdma": [None, "rdma_en2"]}
    mac2 = {"ssh": "mac2.local", "ips": [], "rdma": ["rdma_en2", None]}
    content = {"envs": ["MLX_METAL_FAST_SYNCH=1"], "hosts": [mac1, mac2]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_group_keeps_environment_and_options_of_the_single_runner() -> None:
    command = cluster_command(ALONE, {"hosts": ["localhost", "node2"], "backend": "ring", "mode": "pipeline"}, {})
    assert command.env == ALONE.env
    assert command.argv[2:6] == ("-m", "ollmlx_cluster.launch", "--fd", "{fd}")
    assert plan_of(command) == {"hosts": ["localhost", "node2"], "backend": "ring", "mode": "pipeline"}
    assert command.engine_options["weights"] == "float32"
    assert command.engine_options["mode"] == "pipeline"
    assert command.engine_options["local_ranks"] == 1
    assert command.engine_options["notes"] == ["n", "a group of 2 (pipeline, ring)"]


def test_the_agent_with_ssh_keys_is_passed_on_only_where_ssh_is_used() -> None:
    environ = {"SSH_AUTH_SOCK": "/run/agent", "HF_TOKEN": "secret"}
    assert cluster_command(ALONE, {"hosts": ["localhost", "node2"]}, environ).env == {
        "LD_PRELOAD": "x",
        "SSH_AUTH_SOCK": "/run/agent",
    }
    assert cluster_command(ALONE, {"hosts": ["localhost", "localhost"]}, environ).env == ALONE.env


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ([], "at least two"),
        (["localhost"], "at least two"),
        (["node1", "localhost"], "first host"),
        (["localhost", "-oProxyCommand=evil"], "not a host name"),
        (["localhost", "a b"], "not a host name"),
        (["localhost", "$(evil)"], "not a host name"),
        (["localhost", ""], "not a host name"),
        (["/none/hosts.json"], "cannot be read: No such file"),
    ],
)
def test_hosts_that_cannot_be_a_group_are_refused(hosts: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cluster_command(ALONE, {"hosts": hosts})
    with pytest.raises(CannotStart, match=words) as failure:
        hosts_module.ranks_of({"hosts": hosts})
    assert failure.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("{}", "does not list hosts"),
        ('{"hosts": [1, 2]}', "does not list hosts"),
        ('{"hosts": [{"ips": []}]}', "does not list hosts"),
        ('[{"ssh": "localhost"}]', "at least two"),
        ('[{"ssh": "localhost"}, {"ssh": "-oProxyCommand=evil"}]', "not a host name"),
    ],
)
def test_a_host_file_that_is_none_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "hosts.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words):
        members([str(tmp_path / "hosts.json")])


def test_rank_0_of_a_host_file_is_this_machine_and_the_rest_of_it_is_kept(host_file: Path) -> None:
    command = cluster_command(ALONE, {"hosts": [str(host_file)], "backend": "jaccl"}, {})
    assert command.engine_options["local_ranks"] == 1
    made = hosts_module.hosts_of(plan_of(command))
    assert made["hosts"] == [
        {"ssh": "127.0.0.1", "ips": ["192.0.2.1"], "rdma": [None, "rdma_en2"]},
        {"ssh": "mac2.local", "ips": [], "rdma": ["rdma_en2", None]},
    ]
    assert "MLX_METAL_FAST_SYNCH=1" in made["envs"]
    assert set(hosts_module.ENVIRONMENT) <= set(made["envs"])


def test_the_host_file_lists_addresses_and_keeps_a_local_group_on_the_loopback_interface() -> None:
    made = hosts_module.hosts_of({"hosts": ["localhost", "127.0.0.1"], "backend": "ring"})
    assert made["hosts"] == [{"ssh": "127.0.0.1", "ips": ["127.0.0.1"], "rdma": []}] * 2


def test_a_local_rank_has_the_address_that_the_rank_before_it_can_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "_address", lambda name: {"me@node2": "192.0.2.7", "node3": "198.51.100.7"}[name])
    monkeypatch.setattr(hosts_module, "_address_towards", lambda other: other.replace(".7", ".1"))
    made = hosts_module.hosts_of({"hosts": ["localhost", "localhost", "me@node2", "node3"], "backend": "ring"})
    assert [(entry["ssh"], entry["ips"]) for entry in made["hosts"]] == [
        ("127.0.0.1", ["198.51.100.1"]),
        ("127.0.0.1", ["192.0.2.1"]),
        ("me@node2", ["192.0.2.7"]),
        ("node3", ["198.51.100.7"]),
    ]


@pytest.mark.parametrize("backend", ["ring", "jaccl", "mpi", "nccl"])
def test_every_backend_starts_the_same_ranks_each_with_ports_of_its_own(backend: str) -> None:
    plan = {"hosts": ["localhost", "localhost", "node2", "node2"], "backend": backend}
    words = hosts_module.launch_arguments(plan, Path("made.json"), ["--socket", "r"])
    assert words[words.index("--") :][3:] == [
        "-m", "ollmlx_cluster.rank", "--backend", backend, "--socket", "r",
    ]  # fmt: skip
    assert words[:4] == ["--hostfile", "made.json", "--backend", backend]
    ours = words[4 : words.index("--")]
    if backend == "mpi":
        assert ours == []  # mpirun chooses them
    elif backend == "nccl":
        assert ours[0] == "--nccl-port"
        assert ours[2:] == ["--repeat-hosts", "2"]  # a GPU for each rank of a host
    else:
        assert ours[0] == "--starting-port"


@pytest.mark.parametrize(
    ("heads", "keys", "ranks", "words", "hint"),
    [
        (9, 3, 2, "9 attention heads cannot be divided among 2 hosts", "use 3 hosts"),
        (9, 3, 9, "3 key value heads cannot be divided among 9 hosts", "use 3 hosts"),
        (32, 8, 3, "32 attention heads cannot", "use 2 or 4 or 8 hosts"),
        (7, 1, 7, "1 key value heads cannot", 'mode = "pipeline" divides by layers'),
    ],
)
def test_heads_that_cannot_be_divided_are_refused_with_numbers_that_can(
    heads: int, keys: int, ranks: int, words: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=words) as refusal:
        check_heads({"num_attention_heads": heads, "num_key_value_heads": keys}, ranks)
    assert refusal.value.hint == hint


@pytest.mark.parametrize(
    "config", [{"num_attention_heads": 9, "num_key_value_heads": 3}, {"num_attention_heads": 6}, {}, {"n_heads": "x"}]
)
def test_heads_that_can_be_divided_or_are_not_stated_are_fine(config: dict[str, Any]) -> None:
    check_heads(config, 3)
