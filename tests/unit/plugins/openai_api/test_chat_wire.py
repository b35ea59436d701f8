"""OpenAI's chat: the translation of bodies into requests, and of events into chunks."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from pydantic import ValidationError

from ollmlx.errors import InvalidRequest
from ollmlx.types import Answer, Done, EmbedResult, GenerateRequest, Text, Thinking, TokenLogprob, ToolCall, ToolCalled
from ollmlx_openai_api.chat_request import ChatRequest
from ollmlx_openai_api.chat_response import ChatChunks, completion, usage
from ollmlx_openai_api.completions import CompletionChunks, CompletionRequest, EmbeddingsRequest, embeddings

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"b": 2, "a": 1}'}}


def read(**fields: Any) -> GenerateRequest:
    return ChatRequest.model_validate({"model": "m", "messages": [USER], **fields}).to_vocabulary()


@pytest.mark.parametrize(
    ("fields", "stated"),
    [
        ({}, {"temperature": 1.0, "top_p": 1.0}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0.0, "top_p": 0.5}),
        ({"max_tokens": 0}, {"temperature": 1.0, "top_p": 1.0, "num_predict": -1}),
        ({"max_completion_tokens": -1}, {"temperature": 1.0, "top_p": 1.0, "num_predict": -1}),
        ({"top_k": -1}, {"temperature": 1.0, "top_p": 1.0, "top_k": 0}),
        ({"temperature": 2.5}, {"temperature": 2.0, "top_p": 1.0}),
        ({"max_tokens": 5}, {"temperature": 1.0, "top_p": 1.0, "num_predict": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"temperature": 1.0, "top_p": 1.0, "num_predict": 7}),
        ({"stop": "a"}, {"temperature": 1.0, "top_p": 1.0, "stop": ("a",)}),
        ({"stop": ["a", "b"], "seed": 3}, {"temperature": 1.0, "top_p": 1.0, "stop": ("a", "b"), "seed": 3}),
        ({"logit_bias": {"5": -100}}, {"temperature": 1.0, "top_p": 1.0, "logit_bias": {5: -100.0}}),
        ({"unknown": 1, "user": "me"}, {"temperature": 1.0, "top_p": 1.0}),
        (
            {"repetition_penalty": 1.3, "repetition_context_size": 20, "num_draft_tokens": 0},
            {"temperature": 1.0, "top_p": 1.0, "repeat_penalty": 1.3, "repeat_last_n": 20, "draft_num_predict": 0},
        ),
        ({"repetition_penalty": 0.0}, {"temperature": 1.0, "top_p": 1.0, "repeat_penalty": 1.0}),
    ],
)
def test_sampling_fields_become_options_with_openais_defaults(fields: dict[str, Any], stated: dict[str, Any]) -> None:
    assert read(**fields).options.stated == stated


@pytest.mark.parametrize(
    ("fields", "attribute", "value"),
    [
        ({"tool_choice": "required"}, "tool_choice", "required"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "f"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", False),
        ({"reasoning_effort": "none"}, "think", False),
        ({"reasoning_effort": "minimal"}, "think", "low"),
        ({"reasoning_effort": "extreme"}, "think", True),
        ({"reasoning": {"effort": "xhigh"}}, "think", "max"),
        ({"chat_template_kwargs": {"enable_thinking": False, "other": [1]}}, "think", False),
        ({"chat_template_kwargs": {"reasoning_effort": "high"}}, "think", "high"),
        ({"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"}, "think", "low"),
        ({"response_format": {"type": "json_object"}}, "format", "json"),
        ({"response_format": {"type": "text"}}, "format", None),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}},
            "format",
            {"type": "object"},
        ),
        ({"logprobs": True}, "top_logprobs", 0),
        ({"logprobs": True, "top_logprobs": 5}, "top_logprobs", 5),
        ({"top_logprobs": 5}, "top_logprobs", None),
    ],
)
def test_what_ollama_ignores_is_honoured(fields: dict[str, Any], attribute: str, value: object) -> None:
    assert getattr(read(**fields), attribute) == value


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": [{"role": "alien", "content": "x"}]},
        {"temperature": -1},
        {"top_k": -2},
        {"top_logprobs": 21, "logprobs": True},
        {"max_tokens": -2},
        {"n": 0},
        {"stop": 5},
        {"response_format": {"type": "yaml"}},
    ],
)
def test_fields_of_a_wrong_shape_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "sometimes"},
        {"tool_choice": {"type": "function"}},
        {"tool_choice": {"type": "allowed_tools"}},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "never", "tools": []}}},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [3]}}},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"function": {}}]}}},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "x"}]}}},
        {"response_format": {"type": "json_schema"}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///y.png"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
    ],
)
def test_an_unsupported_field_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        read(**fields)


def test_a_tool_result_gets_the_name_of_the_function_it_answers() -> None:
    turns = read(
        messages=[
            {"role": "developer", "content": "rules"},
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
        ]
    ).messages
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "tool"]
    assert list(turns[2].tool_calls[0].arguments) == ["b", "a"]
    assert (turns[3].tool_name, turns[3].content) == ("add", "3")


def test_parts_of_text_are_joined_and_images_and_sounds_taken_out() -> None:
    parts = [
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
    ]
    (turn,) = read(messages=[{"role": "user", "content": parts}]).messages
    assert (turn.content, turn.images, turn.audio) == ("a\nb", ("aGk=",), ("UklG",))


def deltas(*events: Any) -> list[dict[str, Any]]:
    chunks = ChatChunks({})
    return [chunk["choices"][0] for event in events for chunk in chunks.chunks(event)]


def test_thinking_is_reasoning_and_calls_finish_with_tool_calls() -> None:
    made = deltas(
        Thinking(text="hm"),
        ToolCalled(call=ToolCall(name="f", arguments={"x": 1}, id="a")),
        ToolCalled(call=ToolCall(name="g", id="b")),
        Done(),
    )
    assert made[0]["delta"]["reasoning"] == "hm"
    assert [choice["delta"]["tool_calls"][0]["index"] for choice in made[1:3]] == [0, 1]
    assert json.loads(made[1]["delta"]["tool_calls"][0]["function"]["arguments"]) == {"x": 1}
    assert made[-1]["finish_reason"] == "tool_calls"


def test_an_empty_answer_still_has_its_role() -> None:
    made = deltas(Done(reason="length"))
    assert made[0]["delta"]["role"] == "assistant"
    assert made[-1]["finish_reason"] == "length"


def test_a_whole_answer_counts_cached_tokens_and_bytes_of_logprobs() -> None:
    answer = Answer(
        text="é",
        logprobs=(TokenLogprob(token="é", logprob=-0.5, top=(TokenLogprob(token="e", logprob=-1.0),)),),
        done=Done(prompt_tokens=10, cached_tokens=4, generated_tokens=1),
    )
    body = completion({}, [answer, answer])
    assert body["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    token = body["choices"][1]["logprobs"]["content"][0]
    assert token["bytes"] == [0xC3, 0xA9]
    assert token["top_logprobs"][0]["token"] == "e"


def test_allowed_tools_are_the_only_ones_offered() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("a", "b", "c")]
    allowed = [{"type": "function", "function": {"name": name}} for name in ("c", "a")]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": allowed}}
    request = read(tools=tools, tool_choice=choice)
    assert [tool["function"]["name"] for tool in request.tools] == ["a", "c"]
    assert request.tool_choice == "required"


@pytest.mark.parametrize(
    "fields",
    [{"max_thinking_tokens": 50}, {"reasoning": {"max_tokens": 50, "effort": "high"}}],
    ids=["own", "reasoning"],
)
def test_a_budget_for_thoughts_is_passed_on(fields: dict[str, Any]) -> None:
    assert read(**fields).max_thinking_tokens == 50


def read_completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "m", "prompt": "once", **fields})


def test_each_prompt_has_its_choices_beside_one_another() -> None:
    wanted = read_completion(prompt=["a", "b"], n=2, seed=7).to_vocabulary()
    assert [(one.prompt, one.options.seed) for one in wanted] == [("a", 7), ("a", 8), ("b", 7), ("b", 8)]


def test_a_prompt_that_choices_share_is_counted_once() -> None:
    ends = [Done(prompt_tokens=count, generated_tokens=1) for count in (3, 3, 5, 5)]
    told = usage(ends, choices=2)
    assert (told["prompt_tokens"], told["completion_tokens"]) == (8, 4)


@pytest.mark.parametrize("fields", [{"prompt": []}, {"prompt": ["a"] * 100, "n": 2}, {"echo": True}])
def test_an_unsupported_field_of_a_completion_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        read_completion(**fields).to_vocabulary()


def test_text_offsets_count_the_characters_before_a_token() -> None:
    chunks = CompletionChunks({})
    events = (
        Text(text="ab", logprobs=(TokenLogprob(token="ab", logprob=-1),)),
        Text(text="c", logprobs=(TokenLogprob(token="c", logprob=-2),)),
        Done(),
    )
    made = [chunk["choices"][0] for event in events for chunk in chunks.chunks(event)]
    assert [choice["logprobs"] and choice["logprobs"]["text_offset"] for choice in made] == [[0], [2], None]
    assert made[-1]["finish_reason"] == "stop"


def test_vectors_are_floats_or_little_endian_base64() -> None:
    result = EmbedResult(embeddings=((0.5, -1.0),), prompt_tokens=4)
    assert embeddings("m", result, None)["data"][0]["embedding"] == [0.5, -1.0]
    packed = embeddings("m", result, "base64")["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(packed)) == (0.5, -1.0)
    assert EmbeddingsRequest.model_validate({"model": "m", "input": "x"}).to_vocabulary().inputs == ("x",)
