"""Requests to llama.cpp: route, body, and a prompt that fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ollmlx.errors import ContextExceeded, InvalidRequest, Unsupported
from ollmlx.runner.kit import truncation_target
from ollmlx.runner.kit.prompts import LEVEL_TOKENS
from ollmlx.types import GenerateRequest, Message, Options, ToolCall
from ollmlx_llamacpp.prompt import CHAT, INSERT, TEXT, LlamaCppPrompts

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}


class FakeClient:
    """llama.cpp for a model whose tokens are words, and whose template writes `ROLE: text`.

    `lark`: it was built with llguidance; without, it ignores a grammar in Lark.
    """

    def __init__(self, lark: bool = True) -> None:
        self.lark = lark

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/apply-template":
            lines = [f"{turn['role']}: {turn['content']}" for turn in body["messages"]]
            return {"prompt": "\n".join(lines)}
        if path == TEXT:
            return {"content": "lark" if self.lark else "2 3 4"}
        if path == "/detokenize":
            return {"content": " ".join(f"w{token}" for token in body["tokens"])}
        return {"tokens": [len(word) for word in body["content"].split()]}


def builder(context: int = 100, client: type[FakeClient] = FakeClient, **fields: Any) -> LlamaCppPrompts:
    return LlamaCppPrompts(client(), "tiny", context, **{"template": "{{ messages }}", **fields})  # type: ignore[arg-type]


PATCH = {
    "type": "function",
    "function": {"name": "patch", "parameters": {"type": "object", "properties": {"input": {"type": "string"}}}},
}


def chat(*texts: str, **fields: Any) -> GenerateRequest:
    """The user begins; each text is a turn."""
    roles = ("user", "assistant")
    turns = tuple(Message(role=roles[index % 2], content=text) for index, text in enumerate(texts))
    return GenerateRequest(messages=turns, **fields)


async def test_a_conversation_goes_through_llama_cpps_template() -> None:
    prompt = await builder().build(chat("hello there", options=Options(temperature=0, num_predict=5, seed=7)))
    assert prompt.path == CHAT
    assert prompt.body["messages"] == [{"role": "user", "content": "hello there"}]
    assert (prompt.body["n_predict"], prompt.body["temperature"], prompt.body["seed"]) == (5, 0, 7)
    assert (len(prompt.tokens), prompt.dropped) == (3, 0)


class Plain(FakeClient):
    """llama.cpp for a model whose template writes answers as they are."""

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/apply-template":
            turns = body["messages"]
            lines = [f"{turn['role']}: {turn['content']}\n" for turn in turns]
            return {"prompt": "".join(lines) + ("" if turns[-1]["role"] == "assistant" else "assistant: ")}
        return await super().post(path, body)


@pytest.mark.parametrize(
    ("template", "fields", "path"),
    [
        ("{{ messages }}", {}, TEXT),
        ("{{ messages }}", {"tools": (WEATHER,), "tool_choice": "none"}, TEXT),
        ("{{ messages }}", {"tools": (WEATHER,)}, CHAT),
        ("{{ messages }}", {"format": "json"}, CHAT),
        ("{{ messages }}{{ reasoning_content }}", {}, CHAT),
        ("<|channel|>final", {}, CHAT),
    ],
)
async def test_the_prompt_goes_as_ids_when_an_answer_is_text_and_nothing_else(
    template: str, fields: dict[str, Any], path: str
) -> None:
    prompt = await builder(client=Plain, template=template).build(chat("hello there", top_logprobs=2, **fields))
    assert (prompt.path, prompt.tokens) == (path, (5, 5, 5, 10))
    if path == TEXT:
        assert (prompt.body["prompt"], prompt.body["n_probs"]) == ([5, 5, 5, 10], 2)


class Counting(Plain):
    """The same, which counts how often it is asked for the text of a conversation."""

    asked = 0

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        self.asked += path == "/apply-template"
        return await super().post(path, body)


ALIKE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "


@pytest.mark.parametrize(
    ("template", "fields", "asked"),
    [
        (ALIKE, {}, 0),
        (ALIKE, {"tools": (WEATHER,)}, 1),
        (ALIKE, {"think": "low"}, 1),
        (ALIKE.replace("m.content", "m.content | trim"), {}, 1),
        (ALIKE.replace("m.content", "m.content.missing()"), {}, 1),
    ],
    ids=["a-conversation-of-texts", "tools", "thinking", "another-text", "a-refusal"],
)
async def test_llama_cpp_renders_no_simple_conversation_when_both_make_the_same_text(
    template: str, fields: dict[str, Any], asked: int
) -> None:
    client = Counting()
    made = LlamaCppPrompts(client, "tiny", 100, template=template)  # type: ignore[arg-type]
    first = await made.build(chat("hello there"))
    before = client.asked
    assert (await made.build(chat("hello there", **fields))).tokens == first.tokens == (5, 5, 5, 10)
    assert client.asked - before == asked


async def test_an_answer_that_is_begun_goes_through_llama_cpps_chat() -> None:
    made = builder(client=Plain)
    assert (await made.build(chat("hello", "well"))).path == CHAT
    assert (await made.build(chat("hello", "well", "go on"))).path == TEXT


async def test_plain_text_and_earlier_ids_go_as_ids() -> None:
    prompt = await builder().build(GenerateRequest(prompt="one three", context=(9, 9)))
    assert (prompt.path, prompt.body["prompt"], prompt.tokens) == (TEXT, [9, 9, 3, 5], (9, 9, 3, 5))
    templated = await builder().build(chat("hi", context=(9,)))
    assert (templated.path, templated.body["prompt"]) == (TEXT, [9, 5, 2])


async def test_a_template_of_the_request_is_used_in_either_language() -> None:
    jinja = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    assert (await builder().build(chat("a", "b", "c", template=jinja))).body["prompt"] == [9]
    in_go = "{{ range .Messages }}{{ .Content }} {{ end }}"
    assert (await builder().build(chat("a", "bb", "c", template=in_go))).body["prompt"] == [1, 2, 1]


async def test_a_template_in_go_asks_for_the_text_of_a_gap() -> None:
    asked = GenerateRequest(prompt="ab", suffix="cde", template="{{ .Suffix }} {{ .Prompt }}")
    prompt = await builder().build(asked)
    assert (prompt.path, prompt.body["prompt"]) == (TEXT, [3, 2])


async def test_tools_that_a_template_would_drop_are_refused() -> None:
    with pytest.raises(Unsupported, match="does not support tools"):
        await builder().build(chat("a", template="{{ .Prompt }}", tools=(WEATHER,)))


async def test_a_jinja_template_gets_the_tools_and_the_thinking_that_were_asked_for() -> None:
    template = "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}{{ reasoning_effort }}"
    asked = chat("hi", template=template, tools=(WEATHER, CLOCK), tool_choice="clock", think="low")
    assert (await builder().build(asked)).body["prompt"] == [len("clock"), len("low")]


async def test_a_call_that_must_be_made_is_held_by_grammar_also_with_a_template_of_the_request() -> None:
    asked = chat("hi", template="{{ tools }}", tools=(WEATHER, CLOCK), tool_choice="clock")
    prompt = await builder().build(asked)
    assert prompt.calls
    assert prompt.body["json_schema"]["properties"]["name"] == {"const": "clock"}
    free = await builder().build(asked.model_copy(update={"tool_choice": "auto"}))
    assert not free.calls
    assert "json_schema" not in free.body


class Strict(FakeClient):
    """llama.cpp for a model whose template refuses a system message in the middle."""

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        if path == "/apply-template" and any(turn["role"] == "system" for turn in body["messages"][1:]):
            raise InvalidRequest("llama.cpp: Jinja Exception: System message must be at the beginning.")
        return await super().post(path, body)


async def test_a_system_message_in_the_middle_that_the_template_refuses_is_the_users() -> None:
    turns = (("system", "a"), ("user", "b"), ("system", "c"), ("user", "d"))
    request = GenerateRequest(messages=tuple(Message(role=role, content=text) for role, text in turns))
    prompts = replace(builder(), client=Strict())  # type: ignore[arg-type]
    body = (await prompts.build(request)).body
    assert [(turn["role"], turn["content"]) for turn in body["messages"]] == [("system", "a"), ("user", "b\n\nc\n\nd")]
    assert len((await prompts.rendered(request))[1]) == len((await prompts.build(request)).tokens)
    assert len((await builder().build(request)).body["messages"]) == 4  # another template takes it


async def test_a_thought_has_a_budget() -> None:
    asked = ({"think": "high"}, {"think": "low"}, {"think": "low", "max_thinking_tokens": 7})
    free, low, stated = [
        (await builder().build(chat("hi", **fields))).body.get("thinking_budget_tokens") for fields in asked
    ]
    assert (free, low, stated) == (None, LEVEL_TOKENS["low"], 7)
    told = await builder(template="{{ reasoning_effort }}").build(chat("hi", think="low"))
    assert "thinking_budget_tokens" not in told.body  # its template tells the model
    with pytest.raises(Unsupported, match="max_thinking_tokens"):
        await builder().build(chat("hi", template="{{ messages }}", max_thinking_tokens=7))


async def test_a_template_that_refuses_says_why() -> None:
    with pytest.raises(InvalidRequest, match="of tiny refuses this conversation: no system turns"):
        await builder().build(chat("a", template="{{ raise_exception('no system turns') }}"))
    with pytest.raises(InvalidRequest, match="refuses"):
        await builder().build(chat("a", template="{{ ''.__class__.__mro__ }}{{ undefined.x }}"))


async def test_a_model_without_a_template_continues_the_texts() -> None:
    assert (await builder(template="").build(chat("one", "two", "three"))).body["prompt"] == [3, 3, 5]


@pytest.mark.parametrize(
    ("options", "shift", "limit"),
    [
        ({}, True, 97),
        ({}, False, 97),
        ({"num_predict": 500}, True, 500),
        ({"num_predict": 500}, False, 97),
        ({"num_predict": 0}, True, 0),
        ({"num_ctx": 10}, True, 7),
    ],
)
async def test_without_a_number_an_answer_fills_the_context(options: dict[str, int], shift: bool, limit: int) -> None:
    request = chat("hello there", shift=shift, options=Options.model_validate(options))
    assert (await builder().build(request)).body["n_predict"] == limit


async def test_the_oldest_turns_go_and_system_stays() -> None:
    turns = [Message(role="system", content="be terse")]
    turns += [Message(role="user" if n % 2 == 0 else "assistant", content="word " * 9) for n in range(9)]
    prompt = await builder(60).build(GenerateRequest(messages=tuple(turns), options=Options(num_predict=4)))
    kept = [turn["role"] for turn in prompt.body["messages"]]
    assert kept[:2] == ["system", "user"]
    assert len(prompt.tokens) <= truncation_target(60, 4)
    assert prompt.dropped == 3 + 9 * 10 - len(prompt.tokens)


async def test_a_last_turn_that_is_too_long_alone_loses_its_beginning() -> None:
    prompt = await builder(50).build(chat("first", "second", "word " * 200))
    (last,) = prompt.body["messages"]
    assert 0 < len(last["content"].split()) < 50
    assert prompt.dropped > 150


async def test_what_may_not_be_cut_is_refused_with_both_lengths() -> None:
    for request in (chat("word " * 200, truncate=False), GenerateRequest(prompt="word " * 200, truncate=False)):
        with pytest.raises(ContextExceeded, match=r"20[01] tokens, and 49 are available"):
            await builder(50).build(request)
    gap = GenerateRequest(prompt="word " * 30, suffix="word " * 30, truncate=False)
    with pytest.raises(ContextExceeded) as refusal:
        await builder(50).build(gap)
    assert refusal.value.excess == (60, 49)
    assert (await builder(100).build(gap)).path == INSERT


async def test_tools_and_thinking_are_sent_in_llama_cpps_format() -> None:
    asked = chat("hi", tools=(WEATHER, CLOCK), tool_choice="clock", think="max", parallel_tool_calls=False)
    body = (await builder().build(asked)).body
    assert (body["tools"], body["tool_choice"], body["parallel_tool_calls"]) == ([CLOCK], "required", False)
    assert body["chat_template_kwargs"] == {"enable_thinking": True, "reasoning_effort": "high"}
    assert "tools" not in (await builder().build(chat("hi", tools=(WEATHER,), tool_choice="none"))).body


async def test_the_arguments_of_earlier_calls_are_sent_as_text() -> None:
    call = ToolCall(name="weather", arguments={"city": "Köln"}, id="c1")
    turns = (Message(role="user", content="weather?"), Message(role="assistant", tool_calls=(call,)))
    _, asked = (await builder().build(GenerateRequest(messages=turns))).body["messages"]
    assert asked["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "K\\u00f6ln"}'}


@pytest.mark.parametrize("format", ["json", {"type": "object", "properties": {}}])
async def test_structure_is_asked_for_on_both_routes(format: Any) -> None:
    talk = (await builder().build(chat("hi", format=format))).body["response_format"]
    text = (await builder().build(GenerateRequest(prompt="hi", format=format))).body["json_schema"]
    if format == "json":
        assert (talk, text) == ({"type": "json_object"}, {"type": "object"})
    else:
        assert (talk, text) == ({"type": "json_schema", "json_schema": {"schema": format}}, format)


async def test_text_between_two_texts_is_asked_for_as_such() -> None:
    prompt = await builder().build(GenerateRequest(prompt="def f(", suffix="return x"))
    assert (prompt.path, prompt.body["input_prefix"], prompt.body["input_suffix"]) == (INSERT, "def f(", "return x")
    with pytest.raises(InvalidRequest, match="suffix goes with a prompt"):
        await builder().build(chat("hi", suffix="x"))


async def test_images_need_an_encoder() -> None:
    request = GenerateRequest(messages=(Message(role="user", content="what?", images=("aGk=",)),))
    with pytest.raises(Unsupported, match="tiny does not support images"):
        await builder().build(request)
    picture, text = (await builder(marker="<M>").build(request)).body["messages"][0]["content"]
    assert picture["image_url"]["url"].endswith(";base64,aGk=")
    assert text == {"type": "text", "text": "what?"}


@pytest.mark.parametrize(
    "template",
    ["{{ range .Messages }}[{{ .Content }}]{{ end }}", "{% for m in messages %}[{{ m.content }}]{% endfor %}"],
)
async def test_a_template_of_a_modelfile_gets_pictures_as_markers_and_never_loses_them(template: str) -> None:
    message = Message(role="user", content="what?", images=("aGk=", "aGo="))
    request = GenerateRequest(messages=(message,), template=template)
    prompt = await builder(marker="<M>").build(request)
    assert (prompt.path, prompt.body["prompt"]) == (
        TEXT,
        {"prompt_string": "[<M><M>what?]", "multimodal_data": ["aGk=", "aGo="]},
    )
    with pytest.raises(ContextExceeded):
        await builder(1, marker="<M>").build(request)


async def test_the_text_of_a_freeform_tool_that_must_be_called_is_held_by_its_grammar() -> None:
    asked = chat("hi", tools=(WEATHER, PATCH), tool_choice="patch", grammars={"patch": 'start: "x"'})
    prompt = await builder().build(asked)
    assert (prompt.path, prompt.body["grammar"]) == (TEXT, '%llguidance {}\nstart: "x"')
    assert "json_schema" not in prompt.body
    assert prompt.freeform is asked


async def test_a_llama_cpp_without_llguidance_makes_the_call_as_json() -> None:
    made = builder()
    made.client = FakeClient(lark=False)  # type: ignore[assignment]
    prompt = await made.build(chat("hi", tools=(PATCH,), tool_choice="patch", grammars={"patch": 'start: "x"'}))
    assert prompt.path == CHAT
    assert prompt.body["tool_choice"] == "required"
    assert prompt.freeform is None
