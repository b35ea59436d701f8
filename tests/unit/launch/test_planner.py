"""From an installed model to its launch, when it is to be spread over a group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ollmlx.errors import Unsupported
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.launch.planner import LaunchPlanner
from ollmlx.model.names import ModelName
from ollmlx.plugin.contracts import LaunchOptions, Refusal, RunnerCommand
from ollmlx.plugin.registry import Registry
from ollmlx.settings import Settings
from ollmlx.supervisor.process.importers import Importers
from ollmlx.testing.models import fake_model
from ollmlx.types import InstalledModel, MemoryEstimate

GIB = 1 << 30
CLUSTER = {"hosts": ["localhost", "node2"]}


class Lonely:
    """Runs a model in one process: 40 GiB, and 1 MiB for each token."""

    name = "lonely"

    def accepts(self, model: InstalledModel) -> Refusal | None:
        return None

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        return MemoryEstimate(weights=40 * GIB, kv_cache=context << 20, overhead=0)

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        return RunnerCommand(argv=("/bin/true",), engine_options={"cluster": options.cluster})

    def importer(self, format: str) -> RunnerCommand | None:
        return None


class Sociable(Lonely):
    """Also spreads it."""

    name = "sociable"

    def share(self, model: InstalledModel, context: int, parallel: int, cluster: Mapping[str, Any]) -> MemoryEstimate:
        alone, ranks = self.estimate(model, context, parallel), len(cluster["hosts"])
        return MemoryEstimate(weights=alone.weights // ranks, kv_cache=alone.kv_cache // ranks, overhead=0)


def launcher(backend: Lonely) -> LaunchPlanner:
    settings = Settings.model_validate({"models": {"spread": {"from": "big", "cluster": CLUSTER}}})
    registry = Registry()
    registry.backends.add(backend.name, backend, "test")
    return LaunchPlanner(settings, registry, ModelOverrides(settings, {}), Importers(dict), 64 * GIB)


def model(name: str) -> InstalledModel:
    base = fake_model("big")
    details = base.details.model_copy(update={"context_length": 8192})
    return base.model_copy(update={"name": ModelName.parse(name), "details": details})


async def test_a_group_is_charged_for_what_this_machine_holds_of_it() -> None:
    spread = await launcher(Sociable()).launch(model("spread"))
    alone = await launcher(Sociable()).launch(model("big"))
    assert (spread.estimate.weights, alone.estimate.weights) == (20 * GIB, 40 * GIB)
    assert (spread.context_length, alone.context_length) == (8192, 2048)  # there is more room for the context, too
    assert spread.command.engine_options["cluster"]["hosts"] == CLUSTER["hosts"]
    assert alone.command.engine_options["cluster"] is None


async def test_a_group_and_a_single_runner_of_the_same_weights_are_two() -> None:
    launches = launcher(Sociable())
    spread, alone = await launches.launch(model("spread")), await launches.launch(model("big"))
    assert spread.key != alone.key
    assert launches.keys(model("spread")) == (spread.key,)
    assert launches.keys(model("big")) == (alone.key,)


async def test_a_backend_that_cannot_spread_a_model_says_so() -> None:
    with pytest.raises(Unsupported, match="spread is declared as a cluster, and the backend lonely cannot") as failure:
        await launcher(Lonely()).launch(model("spread"))
    assert failure.value.code == "MDL005"
