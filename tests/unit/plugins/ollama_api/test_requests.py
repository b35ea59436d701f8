"""The translation of the bodies of Ollama's API into requests."""

from __future__ import annotations

import math
from base64 import b64encode
from typing import Any

import pytest
from pydantic import ValidationError

from ollmlx import ModelName
from ollmlx.errors import InvalidRequest
from ollmlx.types import Message, ToolCall
from ollmlx_ollama_api.bodies import ChatBody, EmbedBody, GenerateBody, NamedBody, parse_name
from ollmlx_ollama_api.management import CopyBody, CreateBody, DeleteBody


def test_a_prompt_becomes_a_users_turn_after_its_system_prompt() -> None:
    request = GenerateBody.model_validate(
        {"model": "m", "prompt": "hi", "system": "be brief", "images": ["aGk="], "context": [1, 2], "template": "T"}
    ).to_vocabulary()
    assert request.messages == (
        Message(role="system", content="be brief"),
        Message(role="user", content="hi", images=("aGk=",)),
    )
    assert (request.prompt, request.context, request.template) == (None, (1, 2), "T")


def test_a_raw_prompt_stays_as_it_is_and_a_suffix_asks_for_the_middle() -> None:
    for more in ({"raw": True}, {"suffix": "return"}):
        request = GenerateBody.model_validate({"model": "m", "prompt": "<s>hi", **more}).to_vocabulary()
        assert (request.prompt, request.messages, request.suffix) == ("<s>hi", (), more.get("suffix"))


@pytest.mark.parametrize("extra", [{"system": "x"}, {"template": "x"}, {"context": [1]}])
def test_raw_goes_with_no_template_system_or_context(extra: dict[str, Any]) -> None:
    body = GenerateBody.model_validate({"model": "m", "prompt": "x", "raw": True, **extra})
    with pytest.raises(InvalidRequest, match="raw mode does not support template, system, or context"):
        body.to_vocabulary()


def test_streaming_truncating_and_shifting_are_on_unless_switched_off() -> None:
    body = ChatBody.model_validate({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": None})
    assert body.stream
    request = body.to_vocabulary()
    assert (request.truncate, request.shift, request.top_logprobs) == (True, True, None)


@pytest.mark.parametrize(
    ("body", "asked"),
    [({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 5}, 5), ({"top_logprobs": 5}, None)],
)
def test_logprobs_are_asked_for_by_the_switch(body: dict[str, Any], asked: int | None) -> None:
    made = ChatBody.model_validate({"model": "m", "messages": [{"role": "user"}], **body})
    assert made.to_vocabulary().top_logprobs == asked


@pytest.mark.parametrize("count", [-1, 21, 10**9])
def test_top_logprobs_have_a_range(count: int) -> None:
    body = ChatBody.model_validate({"model": "m", "messages": [{"role": "user"}], "top_logprobs": count})
    with pytest.raises(InvalidRequest, match="top_logprobs must be between 0 and 20"):
        body.to_vocabulary()


def test_messages_of_every_known_client_are_understood() -> None:
    turns = [
        {"role": "User", "content": "hi", "images": []},
        {
            "role": "assistant",
            "thinking": "hmm",
            "tool_calls": [
                {
                    "type": "function",
                    "id": "call_1",
                    "function": {"index": 0, "name": "f", "arguments": {"b": 1, "a": 2}},
                }
            ],
        },
        {"role": "tool", "content": "5", "tool_name": "f", "tool_call_id": "call_1", "name": "f"},
        {"role": "Critic", "content": "no"},
    ]
    request = ChatBody.model_validate({"model": "m", "messages": turns, "temperature": 1, "user": "x"}).to_vocabulary()
    user, assistant, tool, critic = request.messages
    assert (user, critic) == (Message(role="user", content="hi"), Message(role="user", content="no"))
    assert assistant.tool_calls == (ToolCall(id="call_1", name="f", arguments={"b": 1, "a": 2}),)
    assert list(assistant.tool_calls[0].arguments) == ["b", "a"]
    assert (assistant.thinking, tool.tool_name, tool.tool_call_id) == ("hmm", "f", "call_1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": "x"},
        {"messages": [{"role": 5, "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
        {"stream": "no"},
        {"options": []},
        {"keep_alive": "soon"},
        {"keep_alive": True},
        {"think": 5},
        {"tools": "x"},
    ],
)
def test_wrong_types_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ChatBody.model_validate({"model": "m", **wrong})


def test_a_tool_needs_a_name() -> None:
    body = ChatBody.model_validate({"model": "m", "messages": [{"role": "user"}], "tools": [{"type": "function"}]})
    with pytest.raises(InvalidRequest, match=r"function\.name"):
        body.to_vocabulary()


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(300, 300), ("5m", 300), ("1h30m", 5400), (-1, math.inf), ("-1m", math.inf), (0, 0), ("0", 0), (1e300, math.inf)],
)
def test_keep_alive_is_a_number_or_a_duration(given: Any, seconds: float) -> None:
    assert GenerateBody.model_validate({"model": "m", "keep_alive": given}).keep_alive == seconds


@pytest.mark.parametrize(("given", "format"), [(None, None), ("", None), ("json", "json"), ({"type": "object"},) * 2])
def test_formats_are_json_or_a_schema(given: Any, format: Any) -> None:
    assert ChatBody(format=given).format == format


@pytest.mark.parametrize("given", ["yaml", 5, [], {}, True])
def test_other_formats_are_refused(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="invalid format"):
        ChatBody(format=given)


def test_thinking_is_a_switch_or_a_level() -> None:
    assert [ChatBody(think=value).think for value in (None, True, False, "high")] == [None, True, False, "high"]
    with pytest.raises(InvalidRequest, match="invalid think value"):
        ChatBody(think="enormous")


def test_the_older_field_name_names_a_model_too() -> None:
    assert NamedBody.model_validate({"name": "m"}).model == "m"


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: parse_name("../x"), "invalid model name"),
        (lambda: DeleteBody(model="a b").deleted_name(), 'name "a b" is invalid'),
        (lambda: CopyBody(source="a b", destination="x").names(), 'source "a b" is invalid'),
        (lambda: CopyBody(source="x", destination="a b").names(), 'destination "a b" is invalid'),
        (lambda: EmbedBody(model="m", input=[1]).inputs(), "invalid input type"),
        (lambda: EmbedBody(model="m", dimensions=-1).length(), "dimensions must not be negative"),
    ],
)
def test_a_fault_is_reported_in_ollamas_words(ask: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ask()
    assert refused.value.message == message


def test_create_lays_only_what_was_said_over_the_weights() -> None:
    body = CreateBody.model_validate(
        {
            "model": "m",
            "from": "base",
            "system": "be brief",
            "license": ["MIT", ""],
            "parameters": {"temperature": 0.5, "stop": ["x"]},
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
        }
    )
    defaults = body.defaults()
    assert body.base() == ModelName.parse("base")
    assert defaults.model_fields_set == {"system", "license", "options", "messages"}
    assert defaults.options.stated == {"temperature": 0.5, "stop": ("x",)}
    assert [turn.content for turn in defaults.messages] == ["hi", "yo"]
    assert CreateBody.model_validate({"license": "MIT"}).defaults().license == ("MIT",)


@pytest.mark.parametrize(("given", "texts"), [(None, ()), ("", ()), ([], ()), ("a", ("a",)), (["a", "b"], ("a", "b"))])
def test_inputs_are_one_text_or_many(given: Any, texts: tuple[str, ...]) -> None:
    assert EmbedBody(model="m", input=given).inputs() == texts


@pytest.mark.parametrize(
    ("data", "sound"),
    [
        (b"RIFF\0\0\0\0WAVEfmt ", True),
        (b"ID3\4", True),
        (b"\xff\xfb\x90", True),
        (b"fLaC", True),
        (b"OggS", True),
        (b"\0\0\0\x20ftypM4A ", True),
        (b"RIFF\0\0\0\0WEBPVP8 ", False),
        (b"\x89PNG\r\n\x1a\n", False),
        (b"\xff\xd8\xff\xe0", False),
        (b"\0\0\0\x20ftypheic", False),
    ],
)
def test_sounds_among_the_images_are_known_by_their_first_bytes(data: bytes, sound: bool) -> None:
    file = b64encode(data).decode()
    message = {"role": "user", "content": "what?", "images": [file, "!!"]}
    chat = ChatBody.model_validate({"model": "m", "messages": [message]}).to_vocabulary()
    generate = GenerateBody.model_validate({"model": "m", "prompt": "what?", "images": [file, "!!"]}).to_vocabulary()
    (turn,) = chat.messages
    assert generate.messages == (turn,)
    assert (turn.audio, turn.images) == (((file,), ("!!",)) if sound else ((), (file, "!!")))
