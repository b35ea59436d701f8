"""Overrides and aliases of the settings, applied to installed models."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ollmlx.errors import ConfigError
from ollmlx.launch.overrides import ModelOverrides, apply_overrides, rename
from ollmlx.model.names import ModelName
from ollmlx.settings.model import ModelSettings, Settings
from ollmlx.types import InstalledModel, ModelDefaults, Options

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
