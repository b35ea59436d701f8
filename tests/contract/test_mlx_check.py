"""The check of cluster hosts keeps the contract of every check."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable

import pytest

from ollmlx import Check
from ollmlx.testing import CheckContext, CheckSuite, fake_model
from ollmlx.types import InstalledModel
from ollmlx_cluster.check import ClusterCheck, DeclaredCluster
from ollmlx_cluster.inspect import inspect

CLUSTERS = {"big": DeclaredCluster(("localhost", "far.example"), "org/big")}


async def unreachable(host: str, command: Sequence[str]) -> str:
    raise OSError("connection refused")


async def older(host: str, command: Sequence[str]) -> str:
    return json.dumps({"versions": {}, "models": {}})


async def unlike(host: str, command: Sequence[str]) -> str:
    return json.dumps({**inspect([]), "models": {command[-1]: "another"}})


class HasIt(CheckContext):
    """Has the model."""

    async def installed(self, name: str) -> InstalledModel:
        return fake_model("big").model_copy(update={"path": self.settings.models_folder})


@pytest.mark.finding("ENV020", "ENV023", "MDL020")
class TestClusterCheck(CheckSuite):
    def make_check(self) -> Check:
        return ClusterCheck({})

    def make_sick_check(self, code: str) -> Check:
        return ClusterCheck(CLUSTERS, run_on={"ENV020": unreachable, "ENV023": older, "MDL020": unlike}[code])

    def runbooks(self) -> Traversable:
        return files("ollmlx_cluster") / "diagnostics"

    def healthy(self) -> CheckContext:
        return CheckContext(online=True)

    def sick(self) -> Mapping[str, CheckContext]:
        return {"ENV020": CheckContext(online=True), "ENV023": CheckContext(online=True), "MDL020": HasIt(online=True)}
