"""Saved prompt caches: how they are listed, and which are removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollmlx.model.names import ModelName
from ollmlx.storekit.saved_caches import SavedCaches


@pytest.mark.parametrize(
    ("folder", "listed"),
    [
        ("smollm2@135m+970629bb68230c9a", "smollm2:135m"),
        ("mlx-community_Qwen3-8B-4bit+970629bb68230c9a", "mlx-community/Qwen3-8B-4bit"),
        ("Notes of mine", "Notes of mine"),
    ],
)
def test_a_saved_cache_is_listed_under_the_name_that_is_typed(folder: str, listed: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.safetensors").write_bytes(b"12345")
    (found,) = SavedCaches(tmp_path).list()
    assert (found.model, found.files, found.size) == (listed, 1, 5)


def test_the_caches_of_a_model_are_removed_by_any_spelling_of_its_name(tmp_path: Path) -> None:
    for folder in ("org_Model@4b+970629bb68230c9a", "other+970629bb68230c9b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.safetensors").write_bytes(b"12345")
    assert SavedCaches(tmp_path).remove([ModelName.parse("ORG/model:4b")]) == 5
    assert [one.model for one in SavedCaches(tmp_path).list()] == ["other"]
