"""The official OpenAI client, unchanged: chat, streams, tools, structured output, embeddings, responses, errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from tests.e2e.helpers import BREAKS, CALL, CITY, ENDLESS, WEATHER, user

from ollmlx.testing import eventually
from ollmlx.testing.daemon import Daemon

pytestmark = [pytest.mark.e2e, pytest.mark.clients]


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture
def client(daemon_with_fakes: Daemon) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{daemon_with_fakes.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def said(text: str, model: str = "parrot") -> dict[str, Any]:
    return {"model": model, "messages": user(text)}


class TestChat:
    """`/v1/chat/completions`."""

    def test_whole_and_streamed_say_the_same(self, client: Any) -> None:
        whole = client.chat.completions.create(**said("one two three"))
        assert whole.choices[0].message.content == "one two three"
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
        chunks = list(client.chat.completions.create(**said("one two three"), stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"
        assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", *[None] * (len(chunks) - 1)]
        assert [chunk.choices[0].finish_reason for chunk in chunks] == [*[None] * (len(chunks) - 1), "stop"]
        assert len({chunk.id for chunk in chunks}) == 1
        assert not any(chunk.usage for chunk in chunks)

    def test_usage_comes_last_in_a_stream_when_asked_for_and_tells_what_was_cached(self, client: Any) -> None:
        ask = said("a prompt to remember") | {"stream": True, "stream_options": {"include_usage": True}}
        list(client.chat.completions.create(**ask))
        last = list(client.chat.completions.create(**ask))[-1]
        assert last.choices == []
        assert 0 < last.usage.prompt_tokens_details.cached_tokens < last.usage.prompt_tokens

    def test_stop_n_and_logprobs_are_honoured(self, client: Any) -> None:
        answer = client.chat.completions.create(
            **said("one two three"), stop=["three"], n=2, logprobs=True, top_logprobs=2
        )
        assert [choice.index for choice in answer.choices] == [0, 1]
        assert {choice.message.content for choice in answer.choices} == {"one two "}
        first = answer.choices[0].logprobs.content[0]
        assert (first.token, bytes(first.bytes), len(first.top_logprobs)) == ("one", b"one", 2)
        chunks = list(client.chat.completions.create(**said("one two three"), n=2, stream=True))
        for index in (0, 1):
            of = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
            assert "".join(choice.delta.content or "" for choice in of) == "one two three"
            assert of[-1].finish_reason == "stop"

    def test_tools_are_called_whole_and_streamed(self, client: Any) -> None:
        ask = said(CALL) | {"tools": [WEATHER]}
        choice = client.chat.completions.create(**ask).choices[0]
        [call] = choice.message.tool_calls
        assert choice.finish_reason == "tool_calls"
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
        with client.chat.completions.stream(**ask) as stream:
            final = stream.get_final_completion().choices[0]
        [streamed] = final.message.tool_calls
        assert (streamed.id, streamed.function.name) == (call.id, "weather")
        assert json.loads(streamed.function.arguments) == {"city": "Paris"}

    def test_structured_output_is_parsed_into_a_model(self, client: Any) -> None:
        parsed = client.chat.completions.parse(**said("who"), response_format=Person).choices[0].message.parsed
        assert isinstance(parsed, Person)
        answer = client.chat.completions.create(**said("who"), response_format={"type": "json_object"})
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
        with client.chat.completions.stream(**said("who"), response_format=Person) as stream:
            assert isinstance(stream.get_final_completion().choices[0].message.parsed, Person)

    def test_reasoning_is_apart_from_the_answer(self, client: Any) -> None:
        thought = client.chat.completions.create(**said("well", "thinker"), reasoning_effort="low").choices[0].message
        assert (thought.content, thought.model_extra["reasoning"]) == ("well", "let me see")
        plain = client.chat.completions.create(**said("well", "thinker"), reasoning_effort="none").choices[0].message
        assert "reasoning" not in plain.model_extra

    def test_a_cut_answer_raises_what_the_parser_raises(self, client: Any) -> None:
        with pytest.raises(openai.LengthFinishReasonError):
            client.chat.completions.parse(**said("who"), response_format=Person, max_tokens=1)


class TestCompletions:
    """`/v1/completions`."""

    def test_a_text_is_continued_whole_streamed_and_several_at_once(self, client: Any) -> None:
        assert client.completions.create(model="parrot", prompt="one two").choices[0].text == "one two"
        chunks = list(client.completions.create(model="parrot", prompt="one two", stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == "one two"
        many = client.completions.create(model="parrot", prompt=["a", "b"], n=2)
        assert [choice.text for choice in many.choices] == ["a", "a", "b", "b"]
        assert [choice.index for choice in many.choices] == [0, 1, 2, 3]


class TestResponses:
    """`/v1/responses`."""

    def test_whole_and_streamed_say_the_same(self, client: Any) -> None:
        whole = client.responses.create(model="parrot", input="one two three", instructions="be brief")
        assert (whole.output_text, whole.status) == ("one two three", "completed")
        assert whole.usage.total_tokens > 0
        with client.responses.stream(model="parrot", input="one two three") as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        assert final.output_text == "one two three"
        assert kinds[:2] == ["response.created", "response.in_progress"]
        assert kinds[-1] == "response.completed"
        assert kinds.count("response.output_text.delta") == 3

    def test_tools_are_called_and_their_results_answered(self, client: Any) -> None:
        tool = {"type": "function", "strict": False, "name": "weather", "parameters": CITY}
        first = client.responses.create(model="parrot", input=CALL, tools=[tool])
        [call] = first.output
        assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Paris"})
        turns = [
            *user("the weather?"),
            *(item.model_dump(exclude_none=True) for item in first.output),
            {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
        ]
        assert client.responses.create(model="parrot", input=turns, tools=[tool]).output_text == "sunny"

    def test_reasoning_is_an_item_of_its_own(self, client: Any) -> None:
        answer = client.responses.create(model="thinker", input="well", reasoning={"effort": "high"})
        assert [item.type for item in answer.output] == ["reasoning", "message"]
        assert answer.output[0].summary[0].text == "let me see"

    def test_structured_output_is_parsed_into_a_model(self, client: Any) -> None:
        assert isinstance(client.responses.parse(model="parrot", input="who", text_format=Person).output_parsed, Person)

    def test_logprobs_come_when_they_are_included(self, client: Any) -> None:
        answer = client.responses.create(
            model="parrot", input="one two", include=["message.output_text.logprobs"], top_logprobs=1
        )
        part = answer.output[0].content[0]
        assert [(told.token, len(told.top_logprobs)) for told in part.logprobs] == [("one", 1), (" two", 1)]

    def test_a_cut_answer_is_incomplete_and_says_why(self, client: Any) -> None:
        cut = client.responses.create(model="parrot", input="one two three", max_output_tokens=2)
        assert cut.status == "incomplete"
        assert cut.incomplete_details.reason == "max_output_tokens"

    def test_a_failure_in_the_middle_is_an_event(self, client: Any) -> None:
        events = list(client.responses.create(model="parrot", input=BREAKS, stream=True))
        last = events[-1]
        assert last.type == "response.failed"
        assert "told to fail" in last.response.error.message


class TestModelsAndEmbeddings:
    """`/v1/models`, `/v1/embeddings`."""

    def test_models_are_listed_and_shown(self, client: Any) -> None:
        listed = {model.id: model for model in client.models.list()}
        assert {"parrot:latest", "thinker:latest"} <= set(listed)
        assert client.models.retrieve("parrot:latest") == listed["parrot:latest"]
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("some/one:4bit")

    def test_base64_and_floats_are_the_same_vectors(self, client: Any) -> None:
        by_default = client.embeddings.create(model="parrot", input=["a", "b"])
        floats = client.embeddings.create(model="parrot", input=["a", "b"], encoding_format="float")
        for one, other in zip(by_default.data, floats.data, strict=True):
            assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert by_default.usage.prompt_tokens > 0
        assert len(client.embeddings.create(model="parrot", input="a", dimensions=4).data[0].embedding) == 4

    def test_token_ids_of_another_tokenizer_are_refused_with_the_reason(self, client: Any) -> None:
        with pytest.raises(openai.BadRequestError, match="token ids"):
            client.embeddings.create(model="parrot", input=[[1, 2, 3]])


class TestErrors:
    """Every failure is the client's own exception."""

    @pytest.mark.parametrize(
        ("change", "error", "kind"),
        [
            ({"model": "nobody"}, openai.NotFoundError, "not_found_error"),
            ({"messages": []}, openai.BadRequestError, "invalid_request_error"),
            ({"temperature": -1}, openai.BadRequestError, "invalid_request_error"),
            ({"tool_choice": "sometimes"}, openai.BadRequestError, "invalid_request_error"),
        ],
    )
    @pytest.mark.parametrize("stream", [True, False])
    def test_an_early_failure_has_its_status(
        self, client: Any, change: dict[str, Any], error: type[openai.APIStatusError], kind: str, stream: bool
    ) -> None:
        with pytest.raises(error) as raised:
            client.chat.completions.create(**said("x") | {"stream": stream} | change)
        assert raised.value.type == kind
        assert raised.value.request_id

    def test_a_failure_in_the_middle_is_an_error_and_no_end(self, client: Any) -> None:
        with pytest.raises(openai.APIError, match="told to fail"):
            list(client.chat.completions.create(**said(BREAKS), stream=True))
        with pytest.raises(openai.APIError, match="told to fail"):
            list(client.completions.create(model="parrot", prompt=BREAKS, stream=True))


@pytest.mark.fault(40)
async def test_leaving_many_choices_frees_every_slot(daemon_with_fakes: Daemon) -> None:
    async with openai.AsyncOpenAI(base_url=f"{daemon_with_fakes.url}/v1", api_key="none", max_retries=0) as client:
        for _ in range(5):
            stream = await client.completions.create(model="parrot", prompt=ENDLESS, n=15, stream=True)
            pieces: Any = aiter(stream)
            await anext(pieces)
            assert await asyncio.to_thread(daemon_with_fakes.active) > 1
            await stream.close()
            await pieces.aclose()
            del stream, pieces
            await eventually(lambda: asyncio.to_thread(daemon_with_fakes.idle))
        answer = await client.completions.create(model="parrot", prompt="still here")
        assert answer.choices[0].text == "still here"
