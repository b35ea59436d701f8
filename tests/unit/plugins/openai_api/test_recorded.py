"""Recorded exchanges with OpenAI, and the types its own client has for the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, Discriminator, TypeAdapter
from tests.unit.plugins.recorded import DONE_MARK, answered, compare

from ollmlx_openai_api.routes import blueprint

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))
TYPES: dict[str, type[BaseModel]] = {
    "chat.completion": ChatCompletion,
    "chat.completion.chunk": ChatCompletionChunk,
    "text_completion": Completion,
    "response": Response,
    "list": CreateEmbeddingResponse,
}
EVENT: TypeAdapter[Any] = TypeAdapter(Annotated[ResponseStreamEvent, Discriminator("type")])


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
async def test_the_answer_is_the_recorded_one_and_of_the_clients_types(file: Path) -> None:
    recorded, found = await answered(file, blueprint)
    compare(found, recorded)
    for record in found if isinstance(found, list) else [found]:
        if record == DONE_MARK or record.get("error"):
            continue
        if "type" in record:
            EVENT.validate_python(record)
        elif record["object"] == "list" and record["data"][0]["object"] == "model":
            Model.model_validate(record["data"][0])
        else:
            TYPES[record["object"]].model_validate(record)
