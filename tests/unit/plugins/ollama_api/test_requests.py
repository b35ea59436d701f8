"""The translation of the bodies of Ollama's API into requests."""

from __future__ import annotations

import logging
import math
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from ollmlx import ModelName
from ollmlx.errors import InvalidRequest
from ollmlx.model.modelfile import FENCE, parse_modelfile
from ollmlx.testing.routes import installed
from ollmlx.types import Message, ModelDefaults, Options, ToolCall
from ollmlx_ollama_api.bodies import ChatBody, EmbedBody, GenerateBody, NamedBody, parse_name
from ollmlx_ollama_api.descriptions import modelfile
from ollmlx_ollama_api.management import CopyBody, CreateBody, DeleteBody
from ollmlx_ollama_api.options import TYPES, options


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


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
NAMES = st.sampled_from([*TYPES, "mirostat"])


@pytest.mark.parametrize(
    ("given", "stated"),
    [
        ({}, {}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": -1}, {"temperature": 0.0}),
        ({"temperature": None, "num_ctx": None}, {}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"top_k": 40.9}, {"top_k": 40}),
        ({"top_p": 1.5, "min_p": -0.5}, {"top_p": 1.0, "min_p": 0.0}),
        ({"num_predict": -1}, {"num_predict": -1}),
        ({"num_predict": -2}, {"num_predict": -2}),
        ({"num_predict": -999}, {"num_predict": -1}),
        ({"num_predict": 10**12}, {"num_predict": 2**31 - 1}),
        ({"num_ctx": 0}, {}),
        ({"num_ctx": -1}, {}),
        ({"num_ctx": 1}, {"num_ctx": 4}),
        ({"num_ctx": 2**63}, {"num_ctx": 2**31 - 1}),
        ({"repeat_penalty": 0}, {"repeat_penalty": 1.0}),
        ({"repeat_last_n": -5}, {"repeat_last_n": -1}),
        ({"seed": 42}, {"seed": 42}),
        ({"seed": -7}, {"seed": -1}),
        ({"seed": 2**64}, {"seed": 0}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"stop": []}, {"stop": ()}),
        ({"num_gpu": 1, "num_thread": 8, "use_mmap": True}, {}),
        ({"mirostat": 1, "tfs_z": 0.5}, {}),
        ({"backend": "mlx"}, {"backend": "mlx"}),
    ],
)
def test_options_are_read_as_ollama_means_them(given: dict[str, Any], stated: dict[str, Any]) -> None:
    assert options(given).stated == stated


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"num_ctx": "x"}, 'option "num_ctx" must be of type integer'),
        ({"num_predict": True}, 'option "num_predict" must be of type integer'),
        ({"top_k": [1]}, 'option "top_k" must be of type integer'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"num_gpu": "all"}, 'option "num_gpu" must be of type integer'),
        ({"backend": 1}, 'option "backend" must be of type string'),
    ],
)
def test_a_known_option_of_a_wrong_type_is_refused_with_ollamas_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        options(given)
    assert refused.value.message == sentence


def test_an_unknown_option_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert options({"mirostat": 2}) == Options()
    assert "invalid option provided: 'mirostat'" in caplog.text


@given(st.dictionaries(NAMES, SCALARS | st.lists(SCALARS, max_size=2), max_size=5))
def test_any_options_are_used_or_refused_in_a_sentence(given: dict[str, Any]) -> None:
    try:
        found = options(given)
    except InvalidRequest:
        return
    assert Options.model_validate(found.stated) == found


TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.sampled_from(' "\n#'), max_size=30
).filter(lambda text: text.strip() and FENCE not in text)


@example(system="a line with a space at its end \n", turn="b \n", stop="c \n", temperature=0.0)
@given(system=TEXTS, turn=TEXTS, stop=TEXTS, temperature=st.floats(0, 2))
def test_what_is_shown_reads_back(system: str, turn: str, stop: str, temperature: float) -> None:
    defaults = ModelDefaults(
        system=system,
        options=Options(temperature=temperature, num_ctx=512, stop=("\n", stop, "<|x|>")),
        messages=(Message(role="user", content=turn),),
        license=("MIT",),
    )
    found = parse_modelfile(modelfile(installed("org/name", defaults=defaults)))
    assert found.last("from") == "org/name:latest"
    assert found.last("system") == system
    assert found.keyed("message") == (("user", turn),)
    parameters = dict(found.keyed("parameter"))
    assert (float(parameters["temperature"]), parameters["num_ctx"]) == (temperature, "512")
    assert [value for key, value in found.keyed("parameter") if key == "stop"] == ["\n", stop, "<|x|>"]
    assert found.last("license") == "MIT"
