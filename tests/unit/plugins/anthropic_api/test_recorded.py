"""Recorded exchanges with Anthropic, and the types its own client has for the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from pydantic import TypeAdapter
from tests.unit.plugins.recorded import answered, compare

from ollmlx_anthropic_api.routes import blueprint

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
async def test_the_answer_is_the_recorded_one_and_of_the_clients_types(file: Path) -> None:
    recorded, found = await answered(file, blueprint)
    compare(found, recorded)
    if isinstance(found, list):
        for event in found:
            EVENT.validate_python(event)
    elif found.get("type") == "message":
        Message.model_validate(found)
    elif "input_tokens" in found:
        MessageTokensCount.model_validate(found)
