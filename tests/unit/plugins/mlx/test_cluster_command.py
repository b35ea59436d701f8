"""The command of a group, and the host file for mlx.launch: pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ollmlx import RunnerCommand
from ollmlx.errors import ConfigError, StorageError
from ollmlx_mlx.cluster import launch
from ollmlx_mlx.cluster.command import cluster_command

ALONE = RunnerCommand(argv=("python",), env={"LD_PRELOAD": "x"}, engine_options={"weights": "float32", "notes": ["n"]})


def plan_of(command: RunnerCommand) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(command.argv[command.argv.index("--plan") + 1])
    return plan


def test_a_group_keeps_environment_and_options_of_the_single_runner() -> None:
    command = cluster_command(ALONE, {"hosts": ["localhost", "node2"], "backend": "ring", "mode": "pipeline"})
    assert command.env == ALONE.env
    assert command.argv[2:6] == ("-m", "ollmlx_mlx.cluster.launch", "--fd", "{fd}")
    assert plan_of(command) == {"hosts": ["localhost", "node2"], "backend": "ring", "mode": "pipeline"}
    assert command.engine_options["weights"] == "float32"
    assert command.engine_options["mode"] == "pipeline"
    assert command.engine_options["notes"] == ["n", "a group of 2 (pipeline, ring)"]


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
    ],
)
def test_hosts_that_cannot_be_a_group_are_refused(hosts: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cluster_command(ALONE, {"hosts": hosts})


def test_a_host_file_of_ones_own_is_passed_on(tmp_path: Path) -> None:
    command = cluster_command(ALONE, {"hosts": ["/etc/hosts.json"], "backend": "jaccl"})
    arguments = launch.arguments(plan_of(command), tmp_path / "made.json", tmp_path / "r")
    assert arguments[arguments.index("--hostfile") + 1] == "/etc/hosts.json"


def test_the_host_file_lists_addresses_and_keeps_a_local_group_on_the_loopback_interface() -> None:
    made = launch.hosts_of({"hosts": ["localhost", "127.0.0.1"], "backend": "ring"})
    assert made["hosts"] == [{"ssh": "127.0.0.1", "ips": ["127.0.0.1"], "rdma": []}] * 2


def test_remote_hosts_are_looked_up_and_reach_rank_0_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_address", lambda name: "192.0.2.7")
    monkeypatch.setattr(launch, "_own_address", lambda other: "192.0.2.1")
    made = launch.hosts_of({"hosts": ["localhost", "me@node2"], "backend": "ring"})
    assert [(entry["ssh"], entry["ips"]) for entry in made["hosts"]] == [
        ("127.0.0.1", ["192.0.2.1"]),
        ("me@node2", ["192.0.2.7"]),
    ]


def test_ports_for_a_group_are_free_and_neighbours() -> None:
    assert 0 < launch.free_ports(4) < 65532


@pytest.mark.mlx
def test_heads_that_cannot_be_divided_are_a_bad_model() -> None:
    from ollmlx_mlx.cluster.model import check_heads

    smollm2 = {"num_attention_heads": 9, "num_key_value_heads": 3}
    check_heads(smollm2, 3)
    with pytest.raises(StorageError, match="9 attention heads cannot be divided among 2 hosts"):
        check_heads(smollm2, 2)
    with pytest.raises(StorageError, match="3 key value heads"):
        check_heads(smollm2, 9)
