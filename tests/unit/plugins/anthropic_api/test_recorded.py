"""Recorded exchanges with Anthropic, and the types its own client has for the answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from tests.unit.plugins.recorded import answered, compare

from ollmlx_anthropic_api.routes import blueprint

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
Validate = Callable[[Any], None]


@pytest.fixture(scope="module")
def validate() -> Validate:
    """Raises for a record that is none of the client's types. The client is imported here, for it takes a second."""
    from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent

    event: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)

    def check(record: Any) -> None:
        if isinstance(record, list):
            for one in record:
                event.validate_python(one)
        elif record.get("type") == "message":
            Message.model_validate(record)
        elif "input_tokens" in record:
            MessageTokensCount.model_validate(record)

    return check


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
async def test_the_answer_is_the_recorded_one_and_of_the_clients_types(file: Path, validate: Validate) -> None:
    recorded, found = await answered(file, blueprint)
    compare(found, recorded)
    validate(found)
