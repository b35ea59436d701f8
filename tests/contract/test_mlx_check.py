"""The MLX backend's check of cluster hosts keeps the contract of every check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable

import pytest

from ollmlx import Check
from ollmlx.testing import CheckSuite, World
from ollmlx_mlx.cluster.check import ClusterCheck


async def unreachable(host: str, command: Sequence[str]) -> str:
    raise OSError("connection refused")


@pytest.mark.finding("ENV020")
class TestClusterCheck(CheckSuite):
    def make_check(self) -> Check:
        return ClusterCheck({})

    def make_sick_check(self, code: str) -> Check:
        return ClusterCheck({"big": ("far.example", "localhost")}, ask=unreachable)

    def runbooks(self) -> Traversable:
        return files("ollmlx_mlx") / "diagnostics"

    def healthy(self) -> World:
        return World()

    def sick(self) -> Mapping[str, World]:
        return {"ENV020": World()}
