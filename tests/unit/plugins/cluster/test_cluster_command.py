"""The command of a group, and what mlx.launch is told: pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ollmlx import RunnerCommand
from ollmlx.errors import ConfigError
from ollmlx.protocol import ExitCode
from ollmlx.runner.startup import CannotStart
from ollmlx_cluster import hosts as arguments
from ollmlx_cluster.backend import cluster_command
from ollmlx_cluster.hosts import check_heads, members

ALONE = RunnerCommand(argv=("python",), env={"LD_PRELOAD": "x"}, engine_options={"weights": "float32", "notes": ["n"]})


def plan_of(command: RunnerCommand) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(command.argv[command.argv.index("--plan") + 1])
    return plan


def told(backend: str, *hosts: str) -> list[str]:
    return arguments.launch_arguments({"hosts": list(hosts), "backend": backend}, Path("made.json"), ["--socket", "r"])


@pytest.fixture
def host_file(tmp_path: Path) -> Path:
    path = tmp_path / "hosts.json"
    path.write_text(
        json.dumps(
            {
                "envs": ["MLX_METAL_FAST_SYNCH=1"],
                "hosts": [
                    {"ssh": "mac1.local", "ips": ["192.0.2.1"], "rdma": [None, "rdma_en2"]},
                    {"ssh": "mac2.local", "ips": [], "rdma": ["rdma_en2", None]},
                ],
            }
        ),
        encoding="utf-8",
    )
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


def test_the_agent_that_holds_ssh_keys_is_told_of_only_where_ssh_is_used() -> None:
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
        arguments.ranks_of({"hosts": hosts})
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
    made = arguments.hosts_of(plan_of(command))
    assert made["hosts"] == [
        {"ssh": "127.0.0.1", "ips": ["192.0.2.1"], "rdma": [None, "rdma_en2"]},
        {"ssh": "mac2.local", "ips": [], "rdma": ["rdma_en2", None]},
    ]
    assert "MLX_METAL_FAST_SYNCH=1" in made["envs"]
    assert set(arguments.ENVIRONMENT) <= set(made["envs"])


def test_the_host_file_lists_addresses_and_keeps_a_local_group_on_the_loopback_interface() -> None:
    made = arguments.hosts_of({"hosts": ["localhost", "127.0.0.1"], "backend": "ring"})
    assert made["hosts"] == [{"ssh": "127.0.0.1", "ips": ["127.0.0.1"], "rdma": []}] * 2


def test_a_local_rank_has_the_address_that_the_rank_before_it_can_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "_address", lambda name: {"me@node2": "192.0.2.7", "node3": "198.51.100.7"}[name])
    monkeypatch.setattr(arguments, "_address_towards", lambda other: other.replace(".7", ".1"))
    made = arguments.hosts_of({"hosts": ["localhost", "localhost", "me@node2", "node3"], "backend": "ring"})
    assert [(entry["ssh"], entry["ips"]) for entry in made["hosts"]] == [
        ("127.0.0.1", ["198.51.100.1"]),
        ("127.0.0.1", ["192.0.2.1"]),
        ("me@node2", ["192.0.2.7"]),
        ("node3", ["198.51.100.7"]),
    ]


@pytest.mark.parametrize("backend", ["ring", "jaccl", "mpi", "nccl"])
def test_every_backend_starts_the_same_ranks_each_with_ports_of_its_own(backend: str) -> None:
    words = told(backend, "localhost", "localhost", "node2", "node2")
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


def test_ports_for_a_group_are_free_and_neighbours() -> None:
    assert 0 < arguments.free_ports(4) < 65532


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
