"""The checks of MLX models and of cluster hosts keep the contract of every check."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from types import SimpleNamespace
from typing import Any

import pytest

from ollmlx import Check
from ollmlx.doctor.checks.loadable import loadable
from ollmlx.doctor.machine import Completed
from ollmlx.plugin.registry import Registry
from ollmlx.settings import Settings
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


class OneModel:
    name = "mlx"

    async def list(self) -> Sequence[InstalledModel]:
        return [fake_model("tiny", format="mlx", store="mlx", capabilities=("completion",))]


def with_one_model(problem: str | None, code: str = "") -> CheckContext:
    """Return a machine with one model, of which the trial load says this."""
    registry = Registry()
    registry.stores.add("mlx", OneModel(), "mlx")  # type: ignore[arg-type]
    backend = SimpleNamespace(name="mlx", accepts=lambda model: None, trial=lambda model: "somewhere.trial")
    registry.backends.add("mlx", backend, "mlx")
    plugins: Any = SimpleNamespace(registry=registry)

    async def child(argv: Sequence[str], seconds: float) -> Completed:
        return Completed(0, json.dumps({"folder": argv[-1], "problem": problem, "code": code}), "")

    nowhere = Settings.model_validate({"storage": {"state": "/nonexistent"}})
    return CheckContext(load=lambda: plugins, child=child, settings=nowhere)


class TestLoadableCheck(CheckSuite):
    def make_check(self) -> Check:
        return loadable

    def healthy(self) -> CheckContext:
        return with_one_model(None)

    def sick(self) -> Mapping[str, CheckContext]:
        return {code: with_one_model("it does not fit", code) for code in loadable.codes}
