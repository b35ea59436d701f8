"""Recorded streams of the formats models write: answer, reasoning and tool calls come out apart, no tag leaks.

The streams are texts, fed in pieces of every small size: token borders must not matter. Characters are never cut.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ollmlx.errors import InvalidRequest
from ollmlx.types import Event, GenerateRequest, Message, RawCall, Text, Thinking, Tool, ToolCalled
from ollmlx_mlx.engine.text.answer import AnswerParser, is_harmony, markers_for
from ollmlx_mlx.engine.text.detokenizer import DetokenizerFactory, SlowDetokenizer
from ollmlx_mlx.engine.text.template import ChatTemplate
from ollmlx_mlx.engine.text.tools import tool_reader
from ollmlx_mlx.importer.gguf_tokenizer import read_tokenizer

pytestmark = pytest.mark.mlx

WEATHER: Tool = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}


@dataclass
class Format:
    """A model's format, as mlx-lm's tokenizer wrapper describes it."""

    parser: str | None = None
    think: tuple[str, str] | None = None
    harmony: bool = False
    structural_markers: tuple[str, ...] = ()
    response_transitions: dict[str, Any] = field(default_factory=dict)
    response_initial_state: str | None = None

    def __post_init__(self) -> None:
        module = importlib.import_module(f"mlx_lm.tool_parsers.{self.parser}") if self.parser else None
        self.has_tool_calling = module is not None
        self.tool_parser = module.parse_tool_call if module else None
        self.tool_call_start = module.tool_call_start if module else None
        self.tool_call_end = module.tool_call_end if module else None
        self.has_thinking = self.think is not None
        self.think_start: str | None = self.think[0] if self.think else None
        self.think_end: str | None = self.think[1] if self.think else None

    def get_vocab(self) -> dict[str, int]:
        markers = ("<|channel|>", "<|message|>", "<|start|>", "<|call|>") if self.harmony else ()
        return {marker: index for index, marker in enumerate(markers)}


class Pieces:
    """A streaming detokenizer, as mlx-lm has it, whose tokens are numbers of given pieces."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces
        self.last_segment = ""

    def add_token(self, token: int) -> None:
        self.last_segment = self._pieces[token]

    def finalize(self) -> None:
        self.last_segment = ""


def pieces_of(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def events_of(
    text: str, kind: Format, size: int = 3, *, tail: str = "", tools: bool = True, **more: Any
) -> list[Event]:
    pieces = pieces_of(text, size)
    answer = AnswerParser(
        SlowDetokenizer(Pieces(pieces)),
        more.pop("stops", ()),
        markers_for(kind, tools=tools, prompt_tail=tail, harmony=is_harmony(kind)),
        tool_reader(kind, [WEATHER], harmony=is_harmony(kind)),
        **more,
    )
    events = [event for token in range(len(pieces)) for event in answer.add(token)]
    return events + answer.end()


def parts(events: list[Event]) -> tuple[str, str, list[tuple[str, dict[str, Any]]]]:
    """(answer, reasoning, calls)."""
    text = "".join(event.text for event in events if isinstance(event, Text))
    thinking = "".join(event.text for event in events if isinstance(event, Thinking))
    calls = [(event.call.name, event.call.arguments) for event in events if isinstance(event, ToolCalled)]
    return text, thinking, calls


PARIS = [("get_weather", {"city": "Paris"})]
QWEN = Format("json_tools", ("<think>", "</think>"))
RECORDED = {
    "json_tools": (QWEN, '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>', PARIS),
    "json_tools twice": (
        QWEN,
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Paris"}}</tool_call>\n'
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call>',
        [*PARIS, ("get_weather", {"city": "Rome"})],
    ),
    "qwen3_coder": (
        Format("qwen3_coder"),
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call>",
        [("get_weather", {"city": "Paris", "days": 3})],
    ),
    "mistral": (Format("mistral"), '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', PARIS),
    "mistral list": (
        Format("mistral"),
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}}]',
        PARIS,
    ),
    "pythonic": (Format("pythonic"), '<|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>', PARIS),
    "glm47": (
        Format("glm47"),
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
        PARIS,
    ),
    "minimax_m2": (
        Format("minimax_m2"),
        '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n</invoke>\n'
        "</minimax:tool_call>",
        PARIS,
    ),
    "kimi_k2": (
        Format("kimi_k2"),
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        '{"city": "Paris"}<|tool_call_end|><|tool_calls_section_end|>',
        PARIS,
    ),
    "gemma4": (Format("gemma4"), '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|>', PARIS),
    "function_gemma": (
        Format("function_gemma"),
        "<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call>",
        PARIS,
    ),
    "longcat": (
        Format("longcat"),
        "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key>\n"
        "<longcat_arg_value>Paris</longcat_arg_value>\n</longcat_tool_call>",
        PARIS,
    ),
    "harmony": (
        Format(harmony=True),
        "<|channel|>analysis<|message|>Need the weather.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>',
        PARIS,
    ),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("name", list(RECORDED))
def test_a_tool_call_comes_out_whole_and_leaves_no_tag(name: str, size: int) -> None:
    kind, text, expected = RECORDED[name]
    answer, _, calls = parts(events_of(text, kind, size))
    assert calls == expected
    assert answer.strip() == ""


CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
HARMONY = "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>It is 4.<|return|>"


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("kind", "text", "more", "expected"),
    [
        (QWEN, f"<think>\nHm, <b>?\n\n</think>\n\nLet me look.\n{CALL}", {}, ("Let me look.\n", "Hm, <b>?", PARIS)),
        (Format(harmony=True), HARMONY, {}, ("It is 4.", "Easy.", [])),
        # A block that the prompt opened, and a marker in the user's words, which opens nothing.
        (QWEN, "so it is 4</think>\n\n4", {"tail": "<|im_start|>assistant\n<think>\n"}, ("4", "so it is 4", [])),
        (QWEN, "an XML tag", {"tail": "what is <think>?<|im_end|>\n<|im_start|>assistant\n"}, ("an XML tag", "", [])),
        (QWEN, "<think>secret</think>open", {"show_thinking": False}, ("open", "", [])),
        # Markers without tools in the request.
        (QWEN, "write <tool_call> like this", {"tools": False}, ("write <tool_call> like this", "", [])),
        (QWEN, RECORDED["json_tools twice"][1], {"parallel_tools": False}, ("", "", PARIS)),
    ],
)
def test_reasoning_answer_and_call_come_out_apart(
    kind: Format, text: str, more: dict[str, Any], expected: tuple[str, str, list[Any]], size: int
) -> None:
    assert parts(events_of(text, kind, size, **more)) == expected


def test_ids_are_made_as_ollama_makes_them() -> None:
    kind, text, _ = RECORDED["json_tools"]
    (event,) = [event for event in events_of(text, kind) if isinstance(event, ToolCalled)]
    assert event.call.id is not None
    assert event.call.id.startswith("call_")
    assert len(event.call.id) == 13


def test_a_call_that_cannot_be_read_is_passed_on_as_it_was_written() -> None:
    events = events_of("Look: <tool_call>{{not json</tool_call>", QWEN)
    assert events[-1] == RawCall(text="{{not json")
    assert parts(events) == ("Look: ", "", [])


MARKED = st.lists(
    st.sampled_from(["<think>", "</think>", "<tool_call>", "</tool_call>", "<", "think", "a", " ", "\n", "{}"]),
    max_size=12,
)


@given(MARKED, st.integers(1, 8))
def test_no_marker_ever_leaks_and_borders_do_not_matter(words: list[str], size: int) -> None:
    text, thinking, _ = parts(events_of("".join(words), QWEN, size))
    assert "<think>" not in text
    assert "</think>" not in thinking
    assert (text, thinking) == parts(events_of("".join(words), QWEN, 1000))[:2]


def test_a_token_that_repeats_without_end_is_noticed() -> None:
    answer = AnswerParser(
        SlowDetokenizer(Pieces(["ab "])), (), markers_for(Format(), tools=False), tool_reader(Format(), [])
    )
    for count in range(40):
        answer.add(0)
        assert answer.runaway == (count > 30)


class Wrapped:
    """The part of a tokenizer that the factory needs."""

    def __init__(self, backend: Tokenizer) -> None:
        self.backend_tokenizer = backend


@pytest.fixture(scope="module")
def backend(tiny_vocabulary: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    file: Path = tmp_path_factory.mktemp("detokenizer") / "tokenizer.json"
    read_tokenizer(tiny_vocabulary).tokenizer.save(str(file))
    return Tokenizer.from_file(str(file))


@given(text=st.text(alphabet="ab é日😀👩🏽\u200d🇩\n", max_size=12))
def test_any_text_comes_out_in_whole_characters(backend: Tokenizer, text: str) -> None:
    ids = backend.encode(text, add_special_tokens=False).ids
    detokenizer = DetokenizerFactory(Wrapped(backend))()
    pieces = [detokenizer.add(token) for token in ids]
    pieces.append(detokenizer.flush())
    assert "".join(pieces) == backend.decode(ids, skip_special_tokens=False) == text
    assert all("\ufffd" not in piece for piece in pieces)


@given(text=st.text(alphabet="日😀", min_size=1, max_size=4))
def test_a_character_that_never_gets_complete_is_not_shown(backend: Tokenizer, text: str) -> None:
    ids = backend.encode(text, add_special_tokens=False).ids
    detokenizer = DetokenizerFactory(Wrapped(backend))()
    shown = "".join(detokenizer.add(token) for token in ids[:-1]) + detokenizer.flush()
    assert text.startswith(shown)


TURNS = (("system", "a"), ("user", "b"), ("assistant", "c"), ("system", "d"), ("user", "e"))


class PickyTokenizer:
    """A tokenizer whose template takes system messages at these places only."""

    has_chat_template = True
    chat_template = "{{ messages }}"

    def __init__(self, *, places: range, refusal: str = "System message must be at the beginning.") -> None:
        self._places = places
        self._refusal = refusal

    def apply_chat_template(self, turns: list[dict[str, Any]], **_: Any) -> str:
        if any(turn["role"] == "system" and place not in self._places for place, turn in enumerate(turns)):
            raise ValueError(self._refusal)
        return "|".join(f"{turn['role']}:{turn['content']}" for turn in turns)


def rendered(tokenizer: PickyTokenizer) -> str:
    messages = tuple(Message(role=role, content=content) for role, content in TURNS)
    return ChatTemplate(tokenizer, "tiny").render(messages, GenerateRequest(messages=messages))


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (range(99), "system:a|user:b|assistant:c|system:d|user:e"),
        (range(1), "system:a|user:b|assistant:c|user:d\n\ne"),
        (range(0), "user:a\n\nd\n\nb|assistant:c|user:e"),
    ],
    ids=["anywhere", "first only", "nowhere"],
)
def test_system_messages_stand_where_the_template_takes_them(places: range, expected: str) -> None:
    assert rendered(PickyTokenizer(places=places)) == expected


def test_another_refusal_is_told() -> None:
    with pytest.raises(InvalidRequest, match="refuses this conversation: roles must alternate"):
        rendered(PickyTokenizer(places=range(1), refusal="roles must alternate"))
