"""The responses API: the translation of items into requests, and numbers of any size."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from ollmlx.errors import InvalidRequest
from ollmlx.testing.routes import FakeService, installed, web_app
from ollmlx.types import Capability
from ollmlx_openai_api.responses_request import ResponsesRequest
from ollmlx_openai_api.routes import blueprint


def read(**fields: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"model": "m", "input": "hi", **fields})


def test_text_and_instructions_become_two_turns() -> None:
    request = read(instructions="Be brief.").to_vocabulary()
    assert [(turn.role, turn.content) for turn in request.messages] == [("system", "Be brief."), ("user", "hi")]


def test_items_become_the_turns_they_belong_to() -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "add"}]},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": '{"a":1}'},
        {"type": "function_call", "call_id": "d", "name": "mul", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
    ]
    turns = read(input=items).to_vocabulary().messages
    assert [turn.role for turn in turns] == ["user", "assistant", "tool", "assistant"]
    assert (turns[1].thinking, [call.name for call in turns[1].tool_calls]) == ("hm", ["add", "mul"])
    assert (turns[2].tool_name, turns[2].content) == ("add", "2")


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": {"id": "c"}},
        {"background": True},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": []},
        {"text": {"format": {"type": "json_schema"}}},
    ],
)
def test_references_to_earlier_responses_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        read(**fields).to_vocabulary()


@pytest.mark.parametrize(
    "echoed",
    [
        {"metadata": {"a": 10**30}},
        {"tools": [{"type": "function", "name": "f", "parameters": {"maxProperties": 10**30}}]},
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"maxProperties": 10**30}}}},
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_numbers_beyond_64_bits_are_given_back(echoed: dict[str, Any], stream: bool) -> None:
    service = FakeService()
    service.say("hello")
    client: Any = web_app(service, blueprint).test_client()
    answer = await client.post("/v1/responses", json={"model": "tiny", "input": "x", "stream": stream, **echoed})
    assert answer.status_code == 200
    assert orjson.dumps(1e30) in await answer.get_data()


@pytest.mark.parametrize(("capabilities", "think"), [(("completion",), None), (("completion", "thinking"), "high")])
async def test_an_effort_is_only_asked_of_a_model_that_can_think(
    capabilities: tuple[Capability, ...], think: str | None
) -> None:
    service = FakeService(models=[installed("tiny", capabilities=capabilities)])
    service.say("hello")
    client: Any = web_app(service, blueprint).test_client()
    body = {"model": "tiny", "input": "x", "reasoning": {"effort": "high"}}
    assert (await client.post("/v1/responses", json=body)).status_code == 200
    asked = next(request for method, _, request in service.calls if method == "generate")
    assert asked.think == think
