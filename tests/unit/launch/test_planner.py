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
from ollmlx.testing import fake_model
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


class Spreading(Lonely):
    """Runs models of the backend `lonely` as groups."""

    name = "spreading"
    spreads = "lonely"

    def share(self, model: InstalledModel, context: int, parallel: int, cluster: Mapping[str, Any]) -> MemoryEstimate:
        alone, ranks = self.estimate(model, context, parallel), len(cluster["hosts"])
        return MemoryEstimate(weights=alone.weights // ranks, kv_cache=alone.kv_cache // ranks, overhead=0)


def launcher(*backends: Lonely, **declared: Any) -> LaunchPlanner:
    settings = Settings.model_validate({"models": {"spread": {"from": "big", "cluster": CLUSTER, **declared}}})
    registry = Registry()
    for backend in backends:
        registry.backends.add(backend.name, backend, "test")
    return LaunchPlanner(settings, registry, ModelOverrides(settings, {}), Importers(dict), 64 * GIB)


def model(name: str) -> InstalledModel:
    base = fake_model("big")
    details = base.details.model_copy(update={"context_length": 8192})
    return base.model_copy(update={"name": ModelName.parse(name), "details": details})


async def test_a_group_is_charged_for_what_this_machine_holds_of_it() -> None:
    planner = launcher(Spreading(), Lonely())
    spread, alone = await planner.launch(model("spread")), await planner.launch(model("big"))
    assert (spread.backend, alone.backend) == ("spreading", "lonely")
    assert (planner.backend(model("spread")), planner.backend(model("big"))) == ("spreading", "lonely")
    assert (spread.estimate.weights, alone.estimate.weights) == (20 * GIB, 40 * GIB)
    assert (spread.context_length, alone.context_length) == (8192, 2048)  # there is more room for the context, too
    assert spread.command.engine_options["cluster"]["hosts"] == CLUSTER["hosts"]
    assert alone.command.engine_options["cluster"] is None


async def test_a_group_and_a_single_runner_of_the_same_weights_are_two() -> None:
    launches = launcher(Spreading(), Lonely())
    spread, alone = await launches.launch(model("spread")), await launches.launch(model("big"))
    assert spread.key != alone.key
    assert spread.key in launches.keys(model("spread"))
    assert alone.key in launches.keys(model("big"))
    assert not {*launches.keys(model("spread"))} & {*launches.keys(model("big"))}


@pytest.mark.parametrize("backend", ["lonely", "spreading"])
async def test_a_cluster_may_name_the_backend_that_spreads_it_or_the_one_it_builds_on(backend: str) -> None:
    planner = launcher(Spreading(), Lonely(), backend=backend)
    assert (await planner.launch(model("spread"))).backend == "spreading"


async def test_a_backend_that_cannot_spread_a_model_is_named() -> None:
    with pytest.raises(Unsupported, match="spread is declared as a cluster, and no backend can") as failure:
        await launcher(Lonely()).launch(model("spread"))
    assert failure.value.code == "MDL005"
    other = launcher(Spreading(), Lonely(), backend="other")
    with pytest.raises(Unsupported, match="spread is declared as a cluster, and the backend other cannot"):
        await other.launch(model("spread"))
