"""The doctor asks each host of a cluster and names the one that could not be a rank."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ollmlx import Check, Finding, Severity
from ollmlx.testing import fake_model
from ollmlx.types import InstalledModel
from ollmlx_cluster import check as check_module
from ollmlx_cluster.check import NO_MODEL, UNLIKE, UNUSABLE, ClusterCheck, DeclaredCluster, over_ssh
from ollmlx_cluster.inspect import fingerprint, inspect


class CheckContext:
    """The switch for the network, and the folder of each model."""

    def __init__(self, *, online: bool = True, model: InstalledModel | None = None) -> None:
        self.online = online
        self._model = model

    async def installed(self, name: str) -> InstalledModel | None:
        assert name == "org/big"
        return self._model


def clusters(**hosts: list[str]) -> dict[str, DeclaredCluster]:
    return {name: DeclaredCluster(tuple(given), "org/big") for name, given in hosts.items()}


def answering(answers: dict[str, Any]) -> tuple[Callable[[str, Sequence[str]], Awaitable[str]], list[str]]:
    asked: list[str] = []

    async def ask(host: str, command: Sequence[str]) -> str:
        asked.append(host)
        answer = answers[host]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, str) else json.dumps(answer)

    return ask, asked


async def one_finding(answer: Any, model: InstalledModel | None = None) -> Finding:
    """The only finding about a group of localhost and a node2 that answers so."""
    ask, _ = answering({"node2": answer})
    (finding,) = await ClusterCheck(clusters(a=["localhost", "node2"]), ask).run(CheckContext(model=model))
    return finding


@pytest.fixture
def model(tmp_path: Path) -> InstalledModel:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    return fake_model("big").model_copy(update={"path": tmp_path})


def there(model: InstalledModel | None = None, digest: str | None = None, **versions: str) -> dict[str, Any]:
    about = inspect([])
    models = {str(model.path): digest} if model is not None else {}
    return {"versions": {**about["versions"], **versions}, "models": models}


async def test_hosts_that_are_alike_are_no_finding_and_each_is_asked_once(model: InstalledModel) -> None:
    ask, asked = answering({"node2": there(model, fingerprint(model.path))})
    check: Check = ClusterCheck(clusters(a=["localhost", "node2"], b=["localhost", "node2"]), ask)
    assert await check.run(CheckContext(model=model)) == []
    assert asked == ["node2"]


async def test_without_the_network_no_host_is_asked_and_a_finding_says_so() -> None:
    ask, asked = answering({})
    (finding,) = await ClusterCheck(clusters(a=["localhost", "node2"]), ask).run(CheckContext(online=False))
    assert (finding.code, finding.severity, finding.evidence) == (UNUSABLE, Severity.INFO, ("node2",))
    assert finding.commands == ("ollmlx doctor machine --online",)
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (OSError("Permission denied (publickey)."), "Permission denied"),
        ("bash: python: command not found", "Expecting value"),
        ({}, "versions"),
        ([], "indices"),
    ],
)
async def test_a_host_that_cannot_be_asked_is_named_with_the_reason(answer: Any, words: str) -> None:
    finding = await one_finding(answer)
    assert (finding.code, finding.subject) == (UNUSABLE, "node2")
    assert words in finding.evidence[0]
    assert finding.commands[0].startswith("ssh -o BatchMode=yes node2 ")


async def test_other_versions_are_shown_side_by_side() -> None:
    finding = await one_finding(there(mlx="0.1"))
    versions = inspect([])["versions"]
    assert (finding.code, finding.evidence) == (UNLIKE, (f"mlx: {versions['mlx']} here, 0.1 there",))
    assert finding.commands[0].endswith(f"mlx=={versions['mlx']} mlx-lm=={versions['mlx-lm']}")


@pytest.mark.parametrize(
    ("digest", "words"),
    [(None, "the host node2 has no copy of a"), ("0" * 64, "the host node2 has another copy of a")],
)
async def test_a_host_without_the_same_model_is_named_with_how_to_copy_it(
    model: InstalledModel, digest: str | None, words: str
) -> None:
    finding = await one_finding(there(model, digest), model)
    assert (finding.code, finding.title, finding.subject) == (NO_MODEL, words, "a on node2")
    assert finding.commands == (f"rsync -a --delete {model.path}/ node2:{model.path}/",)


async def test_hosts_that_cannot_be_a_group_are_reported_and_not_asked() -> None:
    ask, asked = answering({})
    check = ClusterCheck(clusters(a=["localhost"], b=["localhost", "-oProxyCommand=x"], c=["/hosts.json"]), ask)
    findings = await check.run(CheckContext(online=False))
    assert [(finding.code, finding.subject) for finding in findings] == [(UNUSABLE, name) for name in "abc"]
    assert asked == []


async def test_a_local_group_needs_no_ssh() -> None:
    ask, asked = answering({})
    assert await ClusterCheck(clusters(a=["localhost", "127.0.0.1"]), ask).run(CheckContext()) == []
    assert asked == []


async def test_ssh_is_bounded_and_its_message_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh = tmp_path / "ssh"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for script, seconds, words in (
        ("echo no route >&2; exit 255", 120, "no route"),
        ("exit 3", 120, "status 3"),
        ("exec sleep 600", 1, "1 s"),
    ):
        monkeypatch.setattr(check_module, "SECONDS", seconds)
        ssh.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        ssh.chmod(0o755)
        with pytest.raises(OSError, match=words):
            await over_ssh("node2", ["true"])
    monkeypatch.setattr(check_module, "SECONDS", 120)
    ssh.write_text('#!/bin/sh\nshift 4\necho "$@"\n', encoding="utf-8")
    assert await over_ssh("node2", ["a b", "c"]) == "-- node2 'a b' c\n"


def test_a_host_reports_its_versions_and_models(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    found = inspect([str(tmp_path), str(tmp_path / "none")])
    assert found["models"] == {str(tmp_path): fingerprint(tmp_path), str(tmp_path / "none"): None}
    assert set(found["versions"]) == {"python", "ollmlx", "mlx", "mlx-lm"}


def test_the_same_model_has_the_same_fingerprint_wherever_it_came_from(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text("{}", encoding="utf-8")
        (folder / "model.safetensors").write_bytes(b"\0" * (2 << 20))
        (folder / "ollmlx.json").write_text(folder.name, encoding="utf-8")
    here, other = map(fingerprint, folders)
    assert here == other
    with (folders[1] / "model.safetensors").open("ab") as weights:
        weights.write(b"more")
    assert fingerprint(folders[1]) != here
