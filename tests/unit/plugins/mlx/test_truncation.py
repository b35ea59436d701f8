"""Long conversations lose their oldest turns, visibly; system messages and the last message stay."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.types import Message
from ollmlx_mlx.engine.text.truncation import cut_tokens, fit_messages, target_for


def encode(messages: Sequence[Message]) -> list[int]:
    return [ord(letter) for message in messages for letter in message.content]


def turns(*contents: str) -> list[Message]:
    return [
        Message(role="system" if c.startswith("S") else "assistant" if c.startswith("a") else "user", content=c)
        for c in contents
    ]


def test_a_conversation_that_fits_is_whole() -> None:
    assert fit_messages(turns("Sys", "uuu", "aaa", "u"), encode, 10, 5) == (encode(turns("Sys", "uuu", "aaa", "u")), 0)


def test_the_oldest_turns_go_and_the_system_message_stays() -> None:
    tokens, dropped = fit_messages(turns("Sys", "u1111", "a1111", "u2222", "a2222", "u3"), encode, 20, 16)
    assert tokens == encode(turns("Sys", "u2222", "a2222", "u3"))
    assert dropped == 10


def test_an_answer_does_not_stay_without_its_question() -> None:
    tokens, _ = fit_messages(turns("u1111", "a1111", "u2"), encode, 9, 8)
    assert tokens == encode(turns("u2"))


def test_the_last_message_stays_even_if_it_is_too_long_alone() -> None:
    tokens, dropped = fit_messages(turns("u1", "a1", "u22222222"), encode, 5, 4)
    assert tokens == encode(turns("u22222222"))
    assert dropped == 4


@given(st.lists(st.integers(), max_size=50), st.integers(1, 60), st.integers(0, 60))
def test_cut_tokens_keep_the_first_and_the_last(tokens: list[int], target: int, keep: int) -> None:
    cut = cut_tokens(tokens, target, keep)
    assert len(cut) == min(len(tokens), target)
    kept = min(keep, target // 2)
    assert cut[:kept] == tokens[:kept][: len(cut)]
    assert cut[-1:] == tokens[-1:]


@pytest.mark.parametrize(("context", "wanted", "target"), [(2048, 100, 1948), (2048, -1, 1792), (16, 100, 12)])
def test_room_for_the_answer_is_kept(context: int, wanted: int, target: int) -> None:
    assert target_for(context, wanted) == target
