"""The doctor asks each host of a cluster and names the one that could not be a rank."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ollmlx import Check
from ollmlx_mlx.cluster.check import CODE, ClusterCheck, over_ssh
from ollmlx_mlx.cluster.inspect import inspect

HERE = inspect([])


def answering(answers: dict[str, Any]) -> tuple[Callable[[str, Sequence[str]], Awaitable[str]], list[str]]:
    asked: list[str] = []

    async def ask(host: str, command: Sequence[str]) -> str:
        asked.append(host)
        answer = answers[host]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, str) else json.dumps(answer)

    return ask, asked


async def test_hosts_that_are_alike_are_no_finding_and_each_is_asked_once() -> None:
    ask, asked = answering({"node2": HERE})
    check: Check = ClusterCheck({"a": ["localhost", "node2"], "b": ["localhost", "node2"]}, ask)
    assert await check.run(None) == []
    assert asked == ["node2"]


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
    ask, _ = answering({"node2": answer})
    (finding,) = await ClusterCheck({"a": ["localhost", "node2"]}, ask).run(None)
    assert (finding.code, finding.subject) == (CODE, "node2")
    assert words in finding.evidence[0]
    assert finding.commands[0].startswith("ssh -o BatchMode=yes node2 ")


async def test_other_versions_are_shown_side_by_side() -> None:
    ask, _ = answering({"node2": {"versions": {**HERE["versions"], "mlx": "0.1"}, "models": {}}})
    (finding,) = await ClusterCheck({"a": ["localhost", "node2"]}, ask).run(None)
    assert finding.evidence == (f"mlx: {HERE['versions']['mlx']} here, 0.1 there",)


async def test_hosts_that_cannot_be_a_group_are_told_and_nothing_dangerous_is_asked() -> None:
    ask, asked = answering({})
    findings = await ClusterCheck({"a": ["localhost"], "b": ["localhost", "-oProxyCommand=x"]}, ask).run(None)
    assert [finding.subject for finding in findings] == ["a", "b"]
    assert asked == []


async def test_a_local_group_needs_no_ssh() -> None:
    ask, asked = answering({})
    assert await ClusterCheck({"a": ["localhost", "127.0.0.1"], "b": ["/hosts.json"]}, ask).run(None) == []
    assert asked == []


async def test_ssh_is_bounded_and_its_words_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollmlx_mlx.cluster.check.SECONDS", 1)
    ssh = tmp_path / "ssh"
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for script, words in (
        ("echo no route >&2; exit 255", "no route"),
        ("exit 3", "status 3"),
        ("exec sleep 60", "1 s"),
    ):
        ssh.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        ssh.chmod(0o755)
        with pytest.raises(OSError, match=words):
            await over_ssh("node2", ["true"])
    ssh.write_text('#!/bin/sh\nshift 4\necho "$@"\n', encoding="utf-8")
    assert await over_ssh("node2", ["a b", "c"]) == "-- node2 'a b' c\n"


def test_a_host_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    told = inspect([str(tmp_path), str(tmp_path / "none")])
    assert told["models"] == {str(tmp_path): True, str(tmp_path / "none"): False}
    assert set(told["versions"]) == {"python", "ollmlx", "mlx", "mlx-lm"}
