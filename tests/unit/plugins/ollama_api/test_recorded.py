"""Recorded exchanges with Ollama."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.plugins.recorded import answered, compare

from ollmlx_ollama_api.routes import blueprint

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
async def test_the_answer_is_the_recorded_one(file: Path) -> None:
    recorded, found = await answered(file, blueprint)
    compare(found, recorded, ordered=True)
