"""Whatever a model would like to say, its masked choices make JSON that the schema accepts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.plugins.mlx.test_answer import QWEN, Format, Pieces, parts
from transformers import PreTrainedTokenizerFast

from ollmlx.errors import InvalidRequest
from ollmlx.runner.kit import check_lark
from ollmlx.types import Event
from ollmlx_mlx.engine.batching.grammar import GrammarConstraint, Grammars, ThinkingBudget
from ollmlx_mlx.engine.text.answer import HARMONY_ANSWER, AnswerParser, is_harmony, markers_for
from ollmlx_mlx.engine.text.detokenizer import SlowDetokenizer
from ollmlx_mlx.engine.text.tools import tool_reader
from ollmlx_mlx.importer.gguf_tokenizer import read_tokenizer

pytestmark = pytest.mark.mlx


@pytest.fixture(scope="module")
def tokenizer(tiny_vocabulary: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    read = read_tokenizer(tiny_vocabulary)
    file: Path = tmp_path_factory.mktemp("grammar") / "tokenizer.json"
    read.tokenizer.save(str(file))
    file_ = str(file)
    return PreTrainedTokenizerFast(tokenizer_file=file_, eos_token=read.config["eos_token"])  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def grammars(tokenizer: PreTrainedTokenizerFast) -> Grammars:
    return Grammars(tokenizer, len(tokenizer) + 5, [tokenizer.eos_token_id])


def babble(constraint: GrammarConstraint, tokenizer: PreTrainedTokenizerFast, seed: int, most: int = 300) -> str | None:
    """Random allowed tokens until the end, closing as soon as possible; None when `most` tokens were not enough."""
    rng = np.random.default_rng(seed)
    said: list[int] = []
    for _ in range(most):
        allowed = np.flatnonzero(constraint.mask())
        assert len(allowed)
        assert allowed.max() < len(tokenizer)
        token = int(tokenizer.eos_token_id if tokenizer.eos_token_id in allowed else rng.choice(allowed))
        if token == tokenizer.eos_token_id:
            break
        said.append(token)
        constraint.accept(token, "normal")
        if constraint.complete:
            break
    else:
        return None
    return str(tokenizer.decode(said))


LEAVES = st.sampled_from(
    [
        {"type": "integer", "minimum": 0, "maximum": 99},
        {"type": "boolean"},
        {"type": "null"},
        {"type": "string", "maxLength": 6},
        {"enum": ["red", "green"]},
        {"const": 7},
    ]
)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["a", "b", "name"]), inner, min_size=1, max_size=3).map(_object),
        inner.map(lambda items: {"type": "array", "items": items, "maxItems": 3}),
    ),
    max_leaves=5,
)


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """Enough of JSON schema for the schemas above."""
    if "enum" in schema:
        return value in schema["enum"]
    if "const" in schema:
        return bool(value == schema["const"])
    kind = schema["type"]
    if kind == "object":
        properties = schema["properties"]
        return set(value) == set(properties) and all(valid(value[key], inner) for key, inner in properties.items())
    if kind == "array":
        return len(value) <= schema["maxItems"] and all(valid(item, schema["items"]) for item in value)
    if kind == "integer":
        return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
    if kind == "string":
        return isinstance(value, str) and len(value) <= schema["maxLength"]
    return type(value) is bool if kind == "boolean" else value is None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SCHEMAS, st.integers(0, 1000))
def test_the_output_parses_and_validates(
    grammars: Grammars, tokenizer: PreTrainedTokenizerFast, schema: dict[str, Any], seed: int
) -> None:
    said = babble(grammars.constraint(schema, free=False), tokenizer, seed)
    assert said is not None
    assert valid(json.loads(said), schema)


def test_json_mode_gives_an_object(grammars: Grammars, tokenizer: PreTrainedTokenizerFast) -> None:
    said = [babble(grammars.constraint("json", free=False), tokenizer, seed, 2000) for seed in range(5)]
    finished = [text for text in said if text is not None]
    assert finished
    assert all(isinstance(json.loads(text), dict) for text in finished)


@pytest.mark.parametrize("schema", [{"type": "nonsense"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}])
def test_a_schema_that_cannot_be_compiled_is_refused_with_the_reason(
    grammars: Grammars, schema: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest, match="invalid format: "):
        grammars.constraint(schema, free=False)


def test_reasoning_is_free_and_the_answer_after_it_is_not(grammars: Grammars) -> None:
    constraint = grammars.constraint({"const": 7}, free=True)
    assert constraint.mask() is None
    constraint.accept(40, "reasoning")
    assert constraint.mask() is None
    constraint.accept(41, "normal")
    assert constraint.mask() is not None
    assert not constraint.complete


def test_a_model_may_open_a_reasoning_block_first(grammars: Grammars) -> None:
    constraint = grammars.constraint({"const": 7}, free=False, opening=(50, 51))
    assert constraint.mask()[50]
    constraint.accept(50, "normal")
    assert constraint.mask() is None
    constraint.accept(51, "reasoning")
    assert constraint.mask() is None
    constraint.accept(52, "normal")
    assert constraint.mask() is not None
    assert not constraint.mask()[50]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_model_wants_a_freeform_text_matches_its_grammar(
    grammars: Grammars, tokenizer: PreTrainedTokenizerFast, seed: int
) -> None:
    lark = 'start: "begin " line+ "end"\nline: /[a-c]{1,3}/ " "'
    said = babble(grammars.freeform(lark), tokenizer, seed)
    assert said is None or re.fullmatch(r"begin ([a-c]{1,3} )+end", said)


def test_a_grammar_that_does_not_compile_is_refused_with_its_line(grammars: Grammars) -> None:
    with pytest.raises(InvalidRequest, match=r"2\(8\)"):
        grammars.freeform("\nstart: missing")
    with pytest.raises(InvalidRequest, match="unknown name"):
        check_lark("start: missing")


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
