"""What a model can do, and the sentence when it cannot."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.model.installed import require
from ollmlx.model.names import ModelName
from ollmlx.types import Capability, GenerateRequest, InstalledModel, Message

TOOL = {"type": "function", "function": {"name": "f"}}
HELLO = (Message(role="user", content="hi"),)


def model(*capabilities: Capability) -> InstalledModel:
    return InstalledModel(
        name=ModelName.parse("m"),
        store="s",
        format="mlx",
        path=Path("/x"),
        digest="0" * 64,
        size=0,
        modified_at=datetime(2026, 1, 1, tzinfo=UTC),
        capabilities=capabilities,
    )


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (GenerateRequest(messages=HELLO, tools=(TOOL,)), "m does not support tools"),
        (GenerateRequest(prompt="a", suffix="b"), "m does not support insert"),
        (GenerateRequest(messages=HELLO, think=True), '"m" does not support thinking'),
        (GenerateRequest(messages=HELLO, think="high"), '"m" does not support thinking'),
        (GenerateRequest(messages=(Message(role="user", images=("aGk=",)),)), "m does not support images"),
    ],
)
def test_a_missing_capability_is_refused_in_ollamas_words(request_: GenerateRequest, sentence: str) -> None:
    with pytest.raises(Unsupported) as refusal:
        require(model("completion"), request_)
    assert refusal.value.message == sentence
    require(model("completion", "tools", "insert", "thinking", "vision"), request_)


@pytest.mark.parametrize(
    ("request_", "verb"), [(GenerateRequest(messages=HELLO), "chat"), (GenerateRequest(prompt="x"), "generate")]
)
def test_an_embedding_model_does_not_talk(request_: GenerateRequest, verb: str) -> None:
    with pytest.raises(Unsupported, match=f'"m" does not support {verb}'):
        require(model("embedding"), request_)


def test_tools_that_may_not_be_called_and_thinking_switched_off_need_nothing() -> None:
    require(model("completion"), GenerateRequest(messages=HELLO, tools=(TOOL,), tool_choice="none", think=False))


@pytest.mark.fault(43)
@pytest.mark.parametrize("image", ["!!!", "aGk", "data:image/png;base64,aGk=", "\U0001f600"])
def test_an_image_that_is_not_base64_is_refused_before_a_runner_sees_it(image: str) -> None:
    request = GenerateRequest(messages=(Message(role="user", content="what?", images=("aGk=", image)),))
    with pytest.raises(InvalidRequest, match="invalid image input: it is not base64"):
        require(model("completion", "vision"), request)
