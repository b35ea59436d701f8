"""The official Anthropic client, unchanged: messages, streams, tools, thinking, structured output, counting, errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel
from tests.e2e.helpers import BREAKS, CALL, CITY, user

from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.clients]

WEATHER = {"name": "weather", "description": "The weather of a city", "input_schema": CITY}


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def client(daemon_with_fakes: Daemon) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=daemon_with_fakes.url, api_key="none", max_retries=0) as made:
        yield made


def said(text: str, model: str = "parrot", **more: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 64, "messages": user(text), **more}


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_whole_and_streamed_say_the_same(client: Any) -> None:
    whole = client.messages.create(**said("one two three"))
    assert (text_of(whole), whole.stop_reason, whole.role) == ("one two three", "end_turn", "assistant")
    assert whole.usage.input_tokens > 0
    assert whole.usage.output_tokens == 3
    with client.messages.stream(**said("one two three")) as stream:
        assert "".join(stream.text_stream) == "one two three"
        final = stream.get_final_message()
    assert (text_of(final), final.stop_reason, final.usage.output_tokens) == ("one two three", "end_turn", 3)


def test_what_came_from_the_cache_is_counted_apart(client: Any) -> None:
    first = client.messages.create(**said("a prompt to remember")).usage
    again = client.messages.create(**said("a prompt to remember")).usage
    assert again.cache_read_input_tokens
    cached_before = first.cache_read_input_tokens or 0
    assert again.input_tokens + again.cache_read_input_tokens == first.input_tokens + cached_before


def test_max_tokens_and_stop_sequences_end_an_answer_and_say_so(client: Any) -> None:
    cut = client.messages.create(**said("one two three") | {"max_tokens": 2})
    assert (text_of(cut), cut.stop_reason) == ("one two", "max_tokens")
    stopped = client.messages.create(**said("one two three"), stop_sequences=["three", "never"])
    assert (text_of(stopped), stopped.stop_reason, stopped.stop_sequence) == ("one two ", "stop_sequence", "three")


def test_tools_are_called_whole_and_streamed(client: Any) -> None:
    whole = client.messages.create(**said(CALL), tools=[WEATHER])
    [call] = whole.content
    assert (call.name, call.input, whole.stop_reason) == ("weather", {"city": "Paris"}, "tool_use")
    with client.messages.stream(**said(CALL), tools=[WEATHER]) as stream:
        [streamed] = stream.get_final_message().content
    assert (streamed.id, streamed.input) == (call.id, {"city": "Paris"})


def test_thinking_is_a_block_of_its_own_and_may_be_sent_back(client: Any) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    whole = client.messages.create(**said("well", "thinker"), thinking=thinking)
    assert [block.type for block in whole.content] == ["thinking", "text"]
    with client.messages.stream(**said("well", "thinker"), thinking=thinking) as stream:
        kinds = [event.delta.type for event in stream if event.type == "content_block_delta"]
        final = stream.get_final_message()
    assert kinds == ["thinking_delta", "thinking_delta", "thinking_delta", "signature_delta", "text_delta"]
    assert final.content[0].thinking == "let me see"
    turns = [
        *user("well"),
        {"role": "assistant", "content": [block.model_dump() for block in final.content]},
        {"role": "user", "content": "and then?"},
    ]
    assert text_of(client.messages.create(model="parrot", max_tokens=9, messages=turns)) == "and then?"
    assert [block.type for block in client.messages.create(**said("well", "thinker")).content] == ["text"]


def test_structured_output_is_parsed_into_a_model(client: Any) -> None:
    assert isinstance(client.messages.parse(**said("who"), output_format=Person).parsed_output, Person)


def test_the_beta_client_is_answered_too(client: Any) -> None:
    assert text_of(client.beta.messages.create(**said("one two"), betas=["something-2026-01-01"])) == "one two"


@pytest.mark.parametrize(
    ("change", "error", "kind"),
    [
        ({"model": "nobody"}, anthropic.NotFoundError, "not_found_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
        ({"tools": [{"type": "custom"}]}, anthropic.BadRequestError, "invalid_request_error"),
        ({"model": "mortal", "stream": False}, anthropic.InternalServerError, "api_error"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_an_early_failure_has_its_status(
    client: Any, change: dict[str, Any], error: type[anthropic.APIStatusError], kind: str, stream: bool
) -> None:
    with pytest.raises(error) as raised:
        client.messages.create(**said("x") | {"stream": stream} | change)
    assert raised.value.type == kind
    assert raised.value.request_id


def test_a_failure_in_the_middle_is_an_error_and_no_end(client: Any) -> None:
    with pytest.raises(anthropic.APIStatusError, match="told to fail"):
        list(client.messages.create(**said(BREAKS), stream=True))
