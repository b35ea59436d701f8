"""Measuring servers, and comparing their answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from tests.servers.serving import Answer, Asked, Served, chunked

from ollmlx.bench.agreement import PROMPTS, GreedyAnswer, SharedBeginning, agreement, compared, sentence, summary
from ollmlx.bench.measure import (
    Measurement,
    MeasurementPlan,
    Target,
    TimedAnswer,
    long_text,
    measure,
    rate,
    resident,
    rows,
)
from ollmlx.errors import InvalidRequest, UpstreamError


def printed(model: str) -> dict[str, Any]:
    """Return a whole answer with its tokens; `mute` reports none, and `other` ends with another token."""
    words = {"mute": (), "other": ("a", "c")}.get(model, ("a", "b"))
    tops = [{"token": "b", "logprob": -0.5}, {"token": "c", "logprob": -0.75}]
    return {
        "message": {"content": "".join(words)},
        "prompt_eval_count": 7,
        "logprobs": [{"token": word, "logprob": -0.5, "top_logprobs": tops} for word in words],
    }


@pytest.fixture
def asked() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def url(asked: list[dict[str, Any]]) -> Iterator[str]:
    """A server of both dialects that answers every request with two words."""
    chunks = [{"choices": [{"delta": {"content": word}}]} for word in ("hello", " you")]
    usage = {"choices": [], "usage": {"completion_tokens": 2, "prompt_tokens": 9}}
    events = "".join(f"data: {json.dumps(event)}\n\n" for event in (*chunks, usage)) + "data: [DONE]\n\n"
    lines = ({"message": {"content": "hi"}}, {"message": {"content": ""}, "done": True, "eval_count": 1})

    def answer(request: Asked) -> Answer:
        body = json.loads(request.body)
        asked.append(body)
        if body["model"] == "broken":
            return Answer(500, b'{"error": {"message": "out of paint"}}')
        if request.path == "/v1/chat/completions":
            return Answer(200, events.encode(), {"Content-Type": "text/event-stream"})
        if request.path != "/api/chat":
            return Answer(404)
        return chunked(*lines) if body["stream"] else Answer(200, json.dumps(printed(body["model"])).encode())

    served = Served(answer)
    yield served.url
    served.close()


async def test_two_servers_are_measured_by_turns_and_compared(url: str, asked: list[dict[str, Any]]) -> None:
    ours = Target("ollmlx", url, "mine", "ollama", options={"backend": "b"})
    theirs = Target("other", f"{url}/v1", "yours")
    reported: list[str] = []
    plan = MeasurementPlan(streams=(1, 2), tokens=5, prompt_tokens=20, rounds=2)
    first, second = await measure([ours, theirs], plan, reported.append)
    assert [len(first.cold), len(second.cached), len(second.rates[2])] == [2, 2, 2]
    assert second.prompt_tokens == 9
    assert [body["model"] for body in asked[:6]] == ["mine", "yours", "mine", "mine", "yours", "yours"]
    assert asked[2]["options"] == {"temperature": 0, "num_predict": 16, "backend": "b"}
    assert [text.split(": ")[1] for text in reported[-2:]] == ["other", "ollmlx"], "the second round is reversed"
    header, lines = rows([first, second])
    assert header == ["", "ollmlx", "other", "RATIO"]
    labels = ["first token, 0 tokens, cold", "first token, next turn", "tokens/s, 1 stream", "tokens/s, 2 streams"]
    assert [line[0] for line in lines] == labels
    assert set(first.summary()) >= {"first_token_cold_seconds", "tokens_per_second", "memory_bytes"}


async def test_a_server_that_fails_is_named(url: str) -> None:
    with pytest.raises(UpstreamError, match=r"other answered 500: .*out of paint"):
        await measure([Target("other", f"{url}/v1", "broken")], MeasurementPlan(rounds=1), lambda text: None)


def test_a_rate_counts_all_streams_from_the_first_question_to_the_last_token() -> None:
    assert rate([TimedAnswer(sent=10, last=12, tokens=20), TimedAnswer(sent=11, last=15, tokens=30)]) == 10


def test_the_first_server_is_better_when_it_is_faster_or_smaller() -> None:
    fast = Measurement(Target("a", "", ""), cold=[1.0], cached=[0.5], rates={1: [30.0]}, memory=100)
    slow = Measurement(Target("b", "", ""), cold=[4.0], cached=[0.5], rates={1: [10.0]}, memory=150)
    assert [line[-1] for line in rows([fast, slow])[1]] == ["1.50x", "4.00x", "1.00x", "3.00x"]


def test_the_memory_of_a_process_is_that_of_its_children_too() -> None:
    assert resident(os.getpid()) > 1 << 20
    with pytest.raises(InvalidRequest, match="memory of process 4194303"):
        resident(4194303)


def test_no_two_rounds_share_a_beginning() -> None:
    assert long_text(20, 1).split()[:3] != long_text(20, 2).split()[:3]
    assert long_text(20, 1) == long_text(20, 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "tokens", "length", "gap"),
    [
        ("abcd", "abcd", 4, 4, None),
        ("abcd", "abxd", 2, 4, 2.0),
        ("abcd", "ab", 2, 4, 2.0),
        ("ab", "abcd", 2, 4, None),
        ("xbcd", "abcd", 0, 4, 0.0),
    ],
)
def test_two_answers_share_their_beginning(ours: str, theirs: str, tokens: int, length: int, gap: float | None) -> None:
    reported = [GreedyAnswer(9, tuple(text), tuple(map(float, range(len(text))))) for text in (ours, theirs)]
    found = compared("Hi", *reported)
    assert (found.tokens, found.length, found.gap) == (tokens, length, gap)
    assert found.same == (ours == theirs)


@pytest.mark.parametrize(("other", "same"), [("mine", 10), ("other", 0)])
async def test_two_models_get_the_same_prompts_and_are_compared(
    url: str, asked: list[dict[str, Any]], other: str, same: int
) -> None:
    found = await agreement(Target("a", url, "mine", "ollama"), Target("b", url, other, "ollama"), lambda text: None)
    assert [body["messages"][0]["content"] for body in asked[::2]] == list(PROMPTS)
    assert [body["messages"] for body in asked[::2]] == [body["messages"] for body in asked[1::2]]
    assert (summary(found)["same"], summary(found)["prompts"]) == (same, 10)
    assert {one.gap for one in found} == {None if same else 0.25}
    assert {one.prompt_tokens for one in found} == {(7, 7)}


async def test_a_server_that_does_not_report_its_tokens_is_not_compared(url: str) -> None:
    mute = Target("b", url, "mute", "ollama")
    assert await agreement(Target("a", url, "mine", "ollama"), mute, lambda text: None) == ()


async def test_a_comparison_that_fails_names_the_server(url: str) -> None:
    with pytest.raises(UpstreamError, match="other answered 404"):
        await agreement(Target("other", f"{url}/nowhere", "x", "ollama"), Target("", "", ""), lambda text: None)


def test_the_sentence_says_how_many_answers_are_the_same_and_how_close_the_others_were() -> None:
    same, parted = SharedBeginning("a", (1, 1), 16, 16), SharedBeginning("b", (1, 1), 3, 16, 0.125)
    assert sentence([same, same]) == "the first 16 greedy tokens are the same in 2 of 2 answers"
    assert sentence([same, parted]).endswith("1 of 2 answers; where they differ, the two best candidates are at most "
                                             "0.12 nats apart")  # fmt: skip
