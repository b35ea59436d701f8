"""From an installed model to its launch spec: spread over a group, and planned once for warm requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from ollmlx.errors import Unsupported
from ollmlx.launch.overrides import ModelOverrides
from ollmlx.launch.planner import MAX_PLANS, LaunchPlanner
from ollmlx.model.names import ModelName
from ollmlx.plugin.contracts import LaunchOptions, Refusal, RunnerCommand
from ollmlx.plugin.registry import Registry
from ollmlx.settings import Settings
from ollmlx.supervisor.process.importers import ChildImporter
from ollmlx.testing import fake_model
from ollmlx.types import Capability, InstalledModel, MemoryEstimate, Options

GIB = 1 << 30
CLUSTER = {"hosts": ["localhost", "node2"]}


class SingleBackend:
    """Runs a model in one process: 40 GiB, and 1 MiB for each token."""

    name = "single"

    def accepts(self, model: InstalledModel) -> Refusal | None:
        return None

    def estimate(self, model: InstalledModel, context: int, parallel: int) -> MemoryEstimate:
        return MemoryEstimate(weights=40 * GIB, kv_cache=context << 20, overhead=0)

    def command(self, model: InstalledModel, options: LaunchOptions) -> RunnerCommand:
        return RunnerCommand(argv=("/bin/true",), engine_options={"cluster": options.cluster})

    def importer(self, format: str) -> RunnerCommand | None:
        return None


class SpreadingBackend(SingleBackend):
    """Runs models of the backend `single` as groups."""

    name = "spreading"
    spreads = "single"

    def share(self, model: InstalledModel, context: int, parallel: int, cluster: Mapping[str, Any]) -> MemoryEstimate:
        alone, ranks = self.estimate(model, context, parallel), len(cluster["hosts"])
        return MemoryEstimate(weights=alone.weights // ranks, kv_cache=alone.kv_cache // ranks, overhead=0)


def planner(*backends: SingleBackend, **overrides: Any) -> LaunchPlanner:
    settings = Settings.model_validate({"models": {"spread": {"from": "big", "cluster": CLUSTER, **overrides}}})
    registry = Registry()
    for backend in backends:
        registry.backends.add(backend.name, backend, "test")
    return LaunchPlanner(settings, registry, ModelOverrides(settings, {}), ChildImporter, 44 * GIB, lambda key: True)


def model(name: str) -> InstalledModel:
    base = fake_model("big")
    details = base.details.model_copy(update={"context_length": 8192})
    return base.model_copy(update={"name": ModelName.parse(name), "details": details})


async def test_a_cluster_has_its_own_key_and_reserves_what_this_machine_holds_of_the_model() -> None:
    planned = planner(SpreadingBackend(), SingleBackend())
    spread, alone = await planned.plan(model("spread")), await planned.plan(model("big"))
    assert (spread.backend, alone.backend) == ("spreading", "single")
    assert planned.engine(model("spread")).backend == "spreading"
    assert planned.engine(model("big")).backend == "single"
    assert (spread.estimate.weights, alone.estimate.weights) == (20 * GIB, 40 * GIB)
    assert (spread.context_length, alone.context_length) == (8192, 4096)  # there is more room for the context, too
    assert spread.command.engine_options["cluster"]["hosts"] == CLUSTER["hosts"]
    assert alone.command.engine_options["cluster"] is None
    keys = [planned.keys(model(name)) for name in ("spread", "big")]
    assert (spread.key in keys[0], alone.key in keys[1], {*keys[0]} & {*keys[1]}) == (True, True, set())


@pytest.mark.parametrize("backend", ["single", "spreading"])
async def test_a_cluster_may_name_the_backend_that_spreads_it_or_the_one_it_builds_on(backend: str) -> None:
    planned = planner(SpreadingBackend(), SingleBackend(), backend=backend)
    assert (await planned.plan(model("spread"))).backend == "spreading"


async def test_a_backend_that_cannot_spread_a_model_is_named() -> None:
    with pytest.raises(Unsupported, match="spread is declared as a cluster, and no backend can") as failure:
        await planner(SingleBackend()).plan(model("spread"))
    assert failure.value.code == "MDL005"
    other = planner(SpreadingBackend(), SingleBackend(), backend="other")
    with pytest.raises(Unsupported, match="spread is declared as a cluster, and the backend other cannot"):
        await other.plan(model("spread"))


async def test_plans_for_any_number_of_contexts_are_kept_in_bounds() -> None:
    planned = planner(SingleBackend())
    first, second, *_ = [await planned.plan(model("big"), Options(num_ctx=1 + i)) for i in range(MAX_PLANS + 1)]
    assert await planned.plan(model("big"), Options(num_ctx=2)) is second
    assert await planned.plan(model("big"), Options(num_ctx=1)) is not first


@pytest.mark.parametrize(("longest", "expected"), [(4096, 4096), (8192, 4096), (5000, 4096), (2000, 2000)])
async def test_the_context_is_the_models_own_or_else_the_longest_that_fits_the_budget(
    longest: int, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    big = model("big")
    own = big.model_copy(update={"details": big.details.model_copy(update={"context_length": longest})})
    assert (await planner(SingleBackend()).plan(own)).context_length == expected
    shortened = f"a context of {expected} tokens, not {longest}"
    assert (shortened in caplog.text) is (expected < longest)


@pytest.mark.parametrize(
    ("kind", "reserved"), [("completion", None), ("embedding", 0), ("rerank", 0), ("transcription", 0), ("speech", 0)]
)
async def test_only_models_that_answer_have_a_prefix_cache(kind: Capability, reserved: int | None) -> None:
    spec = await planner(SingleBackend()).plan(fake_model("one", capabilities=(kind,)))
    assert spec.prompt_cache_bytes == reserved
