"""From an installed model to its launch spec: spread over a group, and planned once for warm requests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ollmlx.errors import ConfigError, Unsupported
from ollmlx.launch.overrides import ModelOverrides, apply_overrides, rename
from ollmlx.launch.planner import MAX_PLANS, LaunchPlanner
from ollmlx.model.names import ModelName
from ollmlx.plugin.contracts import LaunchOptions, Refusal, RunnerCommand
from ollmlx.plugin.registry import Registry
from ollmlx.settings.model import ModelSettings, Settings
from ollmlx.supervisor.process.importers import ChildImporter
from ollmlx.testing import fake_model
from ollmlx.types import Capability, InstalledModel, MemoryEstimate, ModelDefaults, Options

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


BASE = InstalledModel(
    name=ModelName.parse("org/base"),
    store="mlx",
    format="mlx",
    path=Path("/models/mlx/org_base"),
    digest="a" * 64,
    size=1,
    modified_at=datetime(2026, 1, 1, tzinfo=UTC),
    defaults=ModelDefaults(options=Options(top_k=7, temperature=0.5)),
)
NAME = ModelName.parse("assistant")


def test_aliases_are_followed_to_the_end() -> None:
    overrides = ModelOverrides(Settings(aliases={"a": "b", "b": "org/base"}), {})
    assert overrides.alias(ModelName.parse("a")) == BASE.name
    assert overrides.alias(BASE.name) is None
    assert {str(name) for name in overrides.aliases_of(BASE.name)} == {"a:latest", "b:latest"}


def test_the_users_alias_wins_over_the_catalogue() -> None:
    overrides = ModelOverrides(Settings(aliases={"x": "mine/x"}), {"x": "theirs/x"})
    assert overrides.alias(ModelName.parse("x")) == ModelName.parse("mine/x")


@pytest.mark.finding("CFG004")
def test_a_loop_of_aliases_is_an_error_that_names_it() -> None:
    overrides = ModelOverrides(Settings(aliases={"a": "b", "b": "a"}), {})
    with pytest.raises(ConfigError, match="a -> b -> a") as refused:
        overrides.alias(ModelName.parse("a"))
    assert refused.value.code == "CFG004"


def test_overrides_replace_the_defaults_of_the_base_and_keep_its_files() -> None:
    made = apply_overrides(BASE, NAME, ModelSettings(system="Be brief.", parameters={"temperature": 0.1}))
    assert str(made.name) == "assistant:latest"
    assert made.defaults.system == "Be brief."
    assert (made.defaults.options.temperature, made.defaults.options.top_k) == (0.1, 7)
    assert made.path == BASE.path
    assert made.digest != BASE.digest
    assert made.details.parent_model == "org/base:latest"


@pytest.mark.finding("CFG004")
def test_a_wrong_parameter_names_its_section() -> None:
    with pytest.raises(ConfigError, match=r"assistant.*temperature") as refused:
        apply_overrides(BASE, NAME, ModelSettings(parameters={"temperature": "hot"}))
    assert refused.value.code == "CFG004"


def test_another_name_for_the_same_answers_keeps_the_digest() -> None:
    assert rename(BASE, NAME).digest == BASE.digest


@pytest.mark.parametrize(
    ("kind", "reserved"), [("completion", None), ("embedding", 0), ("rerank", 0), ("transcription", 0), ("speech", 0)]
)
async def test_only_models_that_answer_have_a_prefix_cache(kind: Capability, reserved: int | None) -> None:
    spec = await planner(SingleBackend()).plan(fake_model("one", capabilities=(kind,)))
    assert spec.prompt_cache_bytes == reserved
