"""Recorded exchanges, compared field by field."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ollmlx.protocol import EVENT
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.types import Done
from ollmlx_ollama_api.blueprint import blueprint

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
async def test_the_answer_is_the_recorded_one(file: Path) -> None:
    recorded = json.loads(file.read_text(encoding="utf-8"))
    service = FakeService(models=[installed(recorded["request"]["model"])])
    service.outcomes = [*map(EVENT.validate_python, recorded["events"]), Done(**recorded["done"])]
    answer = (
        await web_app(service, blueprint).test_client().post(recorded["path"], data=json.dumps(recorded["request"]))
    )
    assert answer.status_code == 200
    body = await answer.get_data(as_text=True)
    if isinstance(recorded["answer"], list):
        assert answer.content_type == "application/x-ndjson"
        assert body.endswith("\n")
        assert "\n\n" not in body
        same([json.loads(line) for line in body.splitlines()], recorded["answer"])
    else:
        assert answer.content_type == "application/json"
        same(json.loads(body), recorded["answer"])


def same(found: Any, wanted: Any, where: str = "") -> None:
    """Equal, names in the same order; a time only has to be one."""
    assert type(found) is type(wanted), where
    if isinstance(wanted, dict):
        assert list(found) == list(wanted), where
        for key in wanted:
            same(found[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for index, item in enumerate(wanted):
            same(found[index], item, f"{where}[{index}]")
    elif where.endswith("created_at"):
        assert datetime.fromisoformat(found).tzinfo is not None
    else:
        assert found == wanted, where
