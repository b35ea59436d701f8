"""Recorded exchanges with OpenAI, and the types its own client has for the answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Discriminator, TypeAdapter
from tests.unit.plugins.recorded import DONE_MARK, answered, compare

from ollmlx_openai_api.routes import blueprint

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
Validate = Callable[[Any], None]


@pytest.fixture(scope="module")
def validate() -> Validate:
    """Raises for a record that is none of the client's types. The client is imported here, for it takes a second."""
    from openai.types import Completion, CreateEmbeddingResponse, Model
    from openai.types.chat import ChatCompletion, ChatCompletionChunk
    from openai.types.responses import Response, ResponseStreamEvent

    types: dict[str, type[BaseModel]] = {
        "chat.completion": ChatCompletion,
        "chat.completion.chunk": ChatCompletionChunk,
        "text_completion": Completion,
        "response": Response,
        "list": CreateEmbeddingResponse,
    }
    event: TypeAdapter[Any] = TypeAdapter(Annotated[ResponseStreamEvent, Discriminator("type")])

    def check(record: Any) -> None:
        if record == DONE_MARK or record.get("error"):
            return
        if "type" in record:
            event.validate_python(record)
        elif record["object"] == "list" and record["data"][0]["object"] == "model":
            Model.model_validate(record["data"][0])
        else:
            types[record["object"]].model_validate(record)

    return check


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
async def test_the_answer_is_the_recorded_one_and_of_the_clients_types(file: Path, validate: Validate) -> None:
    recorded, found = await answered(file, blueprint)
    compare(found, recorded)
    for record in found if isinstance(found, list) else [found]:
        validate(record)
