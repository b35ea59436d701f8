"""A thought that reaches its limit is ended, and the answer begins, whatever the model would like to say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.plugins.mlx.test_answer import QWEN, Format, Pieces, parts

from ollmlx.types import Event
from ollmlx_mlx.engine.batching.thinking import ThinkingBudget
from ollmlx_mlx.engine.text.answer import HARMONY_ANSWER, AnswerParser, is_harmony, markers_for
from ollmlx_mlx.engine.text.detokenizer import SlowDetokenizer
from ollmlx_mlx.engine.text.tools import tool_reader

pytestmark = pytest.mark.mlx

HARMONY = Format(harmony=True)
HARMONY_WORDS = [HARMONY_ANSWER[at : at + 8] for at in range(0, len(HARMONY_ANSWER), 8)]
PIECES = ["hm ", "<think>", "</", "think>", "<|channel|>analysis<|message|>", *HARMONY_WORDS]
HM, OPEN, ENDING, ANALYSIS = 0, 1, (2, 3), 4


def said(kind: Format, wanted: list[int], limit: int, *, tail: str = "") -> list[Event]:
    """The events of an answer whose model wants to say these tokens; a forced token takes the place of a wanted one."""
    markers = markers_for(kind, tools=False, prompt_tail=tail, harmony=is_harmony(kind))
    answer = AnswerParser(SlowDetokenizer(Pieces(PIECES)), (), markers, tool_reader(kind, []))
    ending = tuple(range(5, len(PIECES))) if kind is HARMONY else ENDING
    budget: Any = ThinkingBudget(limit, ending, len(PIECES), thinks=markers.initial == "reasoning")
    events: list[Event] = []
    for token in wanted:
        allowed = budget.mask()
        token = token if allowed is None else int(np.flatnonzero(allowed)[0])
        events += answer.add(token)
        budget.accept(token, answer.state)
    assert not budget.complete
    return events + answer.end()


@pytest.mark.parametrize(
    ("kind", "begin", "tail"),
    [(QWEN, [OPEN], ""), (QWEN, [], "<|im_start|>assistant\n<think>\n"), (HARMONY, [ANALYSIS], "")],
    ids=["opened by the model", "opened by the prompt", "harmony"],
)
def test_a_thought_ends_after_its_budget_and_the_answer_begins(kind: Format, begin: list[int], tail: str) -> None:
    text, thought, _ = parts(said(kind, [*begin, *[HM] * 20], 4, tail=tail))
    assert thought == "hm hm hm hm"
    assert text.startswith("hm hm")


def test_a_thought_that_ends_by_itself_is_left_alone() -> None:
    text, thought, _ = parts(said(QWEN, [OPEN, HM, *ENDING, HM, HM, HM], 4))
    assert (thought, text) == ("hm", "hm hm hm ")


def test_a_second_thought_has_what_the_first_left() -> None:
    text, thought, _ = parts(said(QWEN, [OPEN, HM, HM, HM, HM, HM, HM, HM, OPEN, HM, HM, HM], 3))
    assert thought == "hm hm hm"
    assert "<think>" not in text
