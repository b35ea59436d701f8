"""Model names: what is accepted and what is refused, no name leaves the models folder; the catalogue of short names."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.model.events import closing
from ollmlx.model.installed import require
from ollmlx.model.names import ModelName, load_catalogue, parse_digest
from ollmlx.protocol import decode_event, encode_event
from ollmlx.testing.routes import installed
from ollmlx.types import (
    Capability,
    Done,
    Event,
    Failed,
    GenerateRequest,
    InstalledModel,
    Message,
    Options,
    Prefill,
    Text,
    Thinking,
    ToolCall,
    ToolCalled,
)


@pytest.mark.parametrize(
    ("typed", "canonical", "folder", "repo"),
    [
        ("smollm2:135m", "smollm2:135m", "smollm2@135m", None),
        ("smollm2", "smollm2:latest", "smollm2", None),
        ("library/smollm2:135m", "smollm2:135m", "smollm2@135m", None),
        ("registry.ollama.ai/library/smollm2", "smollm2:latest", "smollm2", None),
        ("mlx-community/X-4bit", "mlx-community/X-4bit:latest", "mlx-community_X-4bit", "mlx-community/X-4bit"),
        ("mlx-community_X-4bit", "mlx-community_X-4bit:latest", "mlx-community_X-4bit", "mlx-community/X-4bit"),
        ("hf.co/org/name:main", "org/name:main", "org_name@main", "org/name"),
        ("https://huggingface.co/org/name", "org/name:latest", "org_name", "org/name"),
        ("example.com:5000/org/n:1", "example.com:5000/org/n:1", "example.com+5000_org_n@1", "org/n"),
    ],
)
def test_each_spelling_has_one_canonical_form_and_one_folder(
    typed: str, canonical: str, folder: str, repo: str | None
) -> None:
    name = ModelName.parse(typed)
    assert (str(name), name.folder, name.repo_id) == (canonical, folder, repo)


def test_both_spellings_of_a_hub_model_are_the_same_model() -> None:
    assert ModelName.parse("mlx-community/x") == ModelName.parse("MLX-Community_X")
    assert hash(ModelName.parse("mlx-community/x")) == hash(ModelName.parse("mlx-community_x"))


def test_two_models_that_share_a_folder_differ_in_spelling() -> None:
    left, right = ModelName.parse("a/b_c"), ModelName.parse("a_b/c")
    assert left.folder == right.folder
    assert not left.same_spelling(right)
    assert left.same_spelling(ModelName.parse("a_b_c"))


NO_NAMES = [
    "", "   ", "../x", "a/../b", "/etc/passwd", "~/x", "C:\\x", "a\\b", "-rf", ".hidden", "a//b", "a/b/c/d", "name:",
    ":tag", "na me", "n\x00ul", "line\nbreak", "\u202ertl", "x" * 97, "org/" + "y" * 97, "n:" + "t" * 97, "%2e%2e/x",
    "a..b", "ho st/org/name", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("typed", NO_NAMES)
@pytest.mark.fault(33)
@pytest.mark.fault(44)
@pytest.mark.finding("MDL001")
def test_anything_else_is_refused_with_the_reason(typed: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        ModelName.parse(typed)
    assert refusal.value.code == "MDL001"


@pytest.mark.fault(33)
@given(st.text(max_size=60))
def test_no_accepted_name_leaves_the_models_folder(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except InvalidRequest:
        return
    root = Path("/models/mlx")
    path = root / name.folder
    assert path.parent == root
    assert path.name not in {"", ".", ".."}
    assert not path.name.startswith((".", "-"))


@given(st.from_regex(r"[a-z0-9][a-z0-9.\-]{0,8}", fullmatch=True).filter(lambda part: ".." not in part))
def test_the_canonical_form_parses_to_itself(part: str) -> None:
    for typed in (part, f"org/{part}", f"org/{part}:t1"):
        name = ModelName.parse(typed)
        assert ModelName.parse(str(name)) == name
        assert str(ModelName.parse(str(name))) == str(name)
        assert ModelName.from_folder(name.folder) == name


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "g" * 64, "sha256:" + "a" * 63, "md5:" + "a" * 64, "sha256:../" + "a" * 61]
)
def test_a_malformed_digest_never_becomes_a_path(digest: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid digest format"):
        parse_digest(digest)


def test_a_digest_is_read_in_both_spellings() -> None:
    assert parse_digest("sha256:" + "a" * 64) == parse_digest("sha256-" + "a" * 64) == "a" * 64


def test_every_entry_is_a_pair_of_valid_names() -> None:
    for short, full in load_catalogue().items():
        assert ModelName.parse(short).org is None, short
        target = ModelName.parse(full)
        assert target.org is not None or full == "smollm2:135m", full


def test_no_two_entries_are_one_name_and_none_stands_for_another_entry() -> None:
    entries = {ModelName.parse(short): ModelName.parse(full) for short, full in load_catalogue().items()}
    tables = tomllib.loads(files("ollmlx.model").joinpath("catalogue.toml").read_text(encoding="utf-8"))
    assert len(entries) == len(load_catalogue()) == sum(map(len, tables.values())) > 40
    assert not set(entries) & set(entries.values())


def test_options_are_filled_only_where_the_stronger_side_is_unset() -> None:
    model = Options(temperature=0.1, top_k=5)
    request = Options(temperature=0.8)  # stated, though equal to the default
    merged = request.over(model)
    assert (merged.temperature, merged.top_k, merged.top_p) == (0.8, 5, 0.9)
    assert merged.stated == {"temperature": 0.8, "top_k": 5}


@pytest.mark.fault(42)
@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 2}, {"num_predict": -3}, {"num_ctx": 0}, {"x": 1}],
)
def test_impossible_options_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Options.model_validate(bad)


def test_a_request_has_messages_or_a_prompt_and_never_both() -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        GenerateRequest()
    with pytest.raises(ValidationError, match="exactly one"):
        GenerateRequest(prompt="x", messages=(Message(role="user"),))
    assert GenerateRequest(prompt="").prompt == ""


@given(st.text())
def test_text_crosses_the_wire_unchanged(text: str) -> None:
    line = encode_event(Text(text=text))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_event(line) == Text(text=text)


@pytest.mark.parametrize(
    "event",
    [
        Prefill(done=1, total=2, cached=1),
        Thinking(text="hm"),
        ToolCalled(call=ToolCall(name="f", arguments={"b": 1, "a": [None]}, id="1")),
        Done(reason="length", prompt_tokens=3, context=(1, 2)),
        Failed(kind="runner_failed", message="gone", code="RUN001"),
    ],
)
def test_every_event_crosses_the_wire_unchanged(event: Event) -> None:
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"type":"text"}', b'{"type":"nope"}', b'\xff{"type":"text"}'])
def test_a_line_that_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValidationError):
        decode_event(line)


async def test_an_abandoned_generator_is_closed_at_the_end_of_the_block() -> None:
    ended: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ended.append("closed")

    async with closing(numbers()) as stream:
        assert await anext(stream) == 1
        assert ended == []
    assert ended == ["closed"]


async def test_an_iterator_without_aclose_needs_no_closing() -> None:
    class Sevens:
        def __aiter__(self) -> Sevens:
            return self

        async def __anext__(self) -> int:
            return 7

    async with closing(Sevens()) as stream:
        assert await anext(stream) == 7


TOOL = {"type": "function", "function": {"name": "f"}}
HELLO = (Message(role="user", content="hi"),)


def model(*capabilities: Capability) -> InstalledModel:
    return installed("m", capabilities=capabilities)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (GenerateRequest(messages=HELLO, tools=(TOOL,)), "m does not support tools"),
        (GenerateRequest(prompt="a", suffix="b"), "m does not support insert"),
        (GenerateRequest(messages=HELLO, think=True), '"m" does not support thinking'),
        (GenerateRequest(messages=HELLO, think="high"), '"m" does not support thinking'),
        (GenerateRequest(messages=(Message(role="user", images=("aGk=",)),)), "m does not support images"),
        (GenerateRequest(messages=(Message(role="user", audio=("aGk=",)),)), "m does not support audio"),
    ],
)
def test_a_missing_capability_is_refused_in_ollamas_words(request_: GenerateRequest, sentence: str) -> None:
    with pytest.raises(Unsupported) as refusal:
        require(model("completion"), request_)
    assert refusal.value.message == sentence
    require(model("completion", "tools", "insert", "thinking", "vision", "audio"), request_)


@pytest.mark.parametrize(
    ("request_", "verb"), [(GenerateRequest(messages=HELLO), "chat"), (GenerateRequest(prompt="x"), "generate")]
)
def test_an_embedding_model_does_not_generate(request_: GenerateRequest, verb: str) -> None:
    with pytest.raises(Unsupported, match=f'"m" does not support {verb}'):
        require(model("embedding"), request_)


def test_tools_that_may_not_be_called_and_thinking_switched_off_need_nothing() -> None:
    require(model("completion"), GenerateRequest(messages=HELLO, tools=(TOOL,), tool_choice="none", think=False))
