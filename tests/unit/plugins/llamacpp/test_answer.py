"""llama.cpp's records, as they were seen on the wire, become events."""

from __future__ import annotations

from typing import Any

import pytest

from ollmlx.errors import RunnerFailed
from ollmlx.types import Done, Prefill, Text, Thinking, ToolCalled
from ollmlx_llamacpp.answer import Reader
from ollmlx_llamacpp.prompt import CHAT, Prompt

TIMINGS = {"cache_n": 24, "prompt_n": 8, "prompt_ms": 12.5, "predicted_n": 3, "predicted_ms": 4.0}


def reader(*, tops: int | None = None, show_thinking: bool = True, dropped: int = 0) -> Reader:
    return Reader(Prompt(CHAT, {}, (1, 2), dropped), tops=tops, show_thinking=show_thinking)


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


def final(stop_type: str = "eos", word: str = "") -> dict[str, Any]:
    verbose = {"stop_type": stop_type, "stopping_word": word}
    return {"choices": [{"index": 0, "delta": {}}], "timings": TIMINGS, "__verbose": verbose}


def done(read: Reader) -> Done:
    last = read.end((1, 2, 3))[-1]
    assert isinstance(last, Done)
    return last


def test_the_account_is_llama_cpps() -> None:
    read = reader(dropped=5)
    assert read.feed(delta(role="assistant", content=None)) == []
    assert read.feed(delta(content="Hi")) == [Text(text="Hi")]
    read.feed(final())
    told = done(read)
    assert (told.prompt_tokens, told.cached_tokens, told.generated_tokens, told.dropped) == (32, 24, 3, 5)
    assert (told.prefill_ns, told.decode_ns, told.context) == (12_500_000, 4_000_000, (1, 2, 3))
    assert (told.reason, told.stop) == ("stop", None)


@pytest.mark.parametrize(
    ("stop_type", "word", "reason", "stop"),
    [("eos", "", "stop", None), ("limit", "", "length", None), ("word", " 3", "stop", " 3")],
)
def test_the_end_has_its_reason(stop_type: str, word: str, reason: str, stop: str | None) -> None:
    read = reader()
    read.feed(final(stop_type, word))
    assert (done(read).reason, done(read).stop) == (reason, stop)


def test_progress_of_the_prompt_is_told() -> None:
    progress = {"total": 42, "cache": 10, "processed": 20, "time_ms": 5}
    assert reader(dropped=1).feed({**delta(content=None), "prompt_progress": progress}) == [
        Prefill(done=20, total=42, cached=10, dropped=1)
    ]
    first = {"total": 42, "cache": 10, "processed": 0}
    assert reader().feed({"prompt_progress": first}) == [Prefill(done=0, total=42, cached=0)]


def test_thoughts_are_told_or_dropped() -> None:
    thought = delta(reasoning_content="hm")
    assert reader().feed(thought) == [Thinking(text="hm")]
    assert reader(show_thinking=False).feed(thought) == []


def test_calls_are_told_whole() -> None:
    read = reader()
    first = {"index": 0, "id": "a", "function": {"name": "weather", "arguments": '{"city":'}}
    assert read.feed(delta(tool_calls=[first])) == []
    assert read.feed(delta(tool_calls=[{"index": 0, "function": {"arguments": '"Paris"}'}}])) == []
    (one,) = read.feed(delta(tool_calls=[{"index": 1, "id": "b", "function": {"name": "clock", "arguments": ""}}]))
    read.feed(final())
    two, last = read.end(())
    assert isinstance(one, ToolCalled)
    assert isinstance(two, ToolCalled)
    assert (one.call.name, one.call.arguments, one.call.id) == ("weather", {"city": "Paris"}, "a")
    assert (two.call.name, two.call.arguments, two.call.id) == ("clock", {}, "b")
    assert last.type == "done"


def test_plain_text_brings_its_ids() -> None:
    read = reader()
    assert read.feed({"content": " Paris", "tokens": [7042], "stop": False}) == [Text(text=" Paris")]
    read.feed({"content": "", "tokens": [], "stop": True, "stop_type": "limit", "timings": TIMINGS})
    assert (read.tokens, done(read).reason) == ([7042], "length")


def test_logprobs_come_with_as_many_alternatives_as_were_asked_for() -> None:
    top = [{"id": 1, "token": "a", "logprob": -0.1}, {"id": 2, "token": "b", "logprob": None}]
    entry = {"id": 1, "token": "a", "logprob": 1e-9, "top_logprobs": top}
    record = {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [entry]}}]}
    (text,) = reader(tops=2).feed(record)
    assert isinstance(text, Text)
    assert (text.logprobs[0].logprob, [each.id for each in text.logprobs[0].top]) == (0.0, [1, 2])
    assert text.logprobs[0].top[1].logprob < -1e6
    (bare,) = reader(tops=0).feed(record)
    assert isinstance(bare, Text)
    assert (len(bare.logprobs), bare.logprobs[0].top) == (1, ())


def test_a_stream_without_an_end_has_failed() -> None:
    with pytest.raises(RunnerFailed, match="without a result"):
        reader().end(())
