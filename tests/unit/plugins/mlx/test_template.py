"""A chat template that refuses system messages gets them where it takes them."""

from __future__ import annotations

from typing import Any

import pytest

from ollmlx.errors import InvalidRequest
from ollmlx.types import GenerateRequest, Message
from ollmlx_mlx.engine.text.template import ChatTemplate

pytestmark = pytest.mark.mlx

TURNS = (("system", "a"), ("user", "b"), ("assistant", "c"), ("system", "d"), ("user", "e"))


class Tokenizer:
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


def rendered(tokenizer: Tokenizer) -> str:
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
    assert rendered(Tokenizer(places=places)) == expected


def test_another_refusal_is_told() -> None:
    with pytest.raises(InvalidRequest, match="refuses this conversation: roles must alternate"):
        rendered(Tokenizer(places=range(1), refusal="roles must alternate"))
