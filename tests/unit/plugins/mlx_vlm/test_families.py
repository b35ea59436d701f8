"""Families of models that see: each that is run is tested, each that is not is refused with a reason and a way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.vision_families import FAMILIES as TESTED

from ollmlx.plugin.loader import load_plugins
from ollmlx.settings import Settings
from ollmlx_mlx_vlm.backend import MlxVlmBackend
from ollmlx_mlx_vlm.families import FAMILIES, REFUSED

PAGE = Path(__file__).parents[4] / "docs" / "pictures.md"


def test_each_family_that_is_run_is_tested_and_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert {*FAMILIES} - {"lfm2-vl"} == {name.removesuffix("-both-ways") for name in TESTED}  # the same as lfm2_vl
    assert [name for name in TESTED if f"`{name.removesuffix('-both-ways')}`" not in page] == []


@pytest.mark.parametrize("kind", [*REFUSED, "never_heard_of"])
def test_another_family_is_refused_with_the_reason_and_a_way_out(kind: str) -> None:
    backend = load_plugins(Settings()).registry.backend("mlx_vlm")
    assert isinstance(backend, MlxVlmBackend)
    refusal = backend.knows(kind)
    assert refusal is not None
    assert refusal.code == "MDL004"
    assert REFUSED.get(kind, "its answers are not tested to be mlx-vlm's own") in refusal.reason
    assert "GGUF" in (refusal.hint or "")
    assert kind not in REFUSED or f"`{kind}`" in PAGE.read_text(encoding="utf-8")
