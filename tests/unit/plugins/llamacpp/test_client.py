"""llama.cpp's answers: records however they are cut, errors as our kinds, events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import ContextExceeded, InvalidRequest, OllmlxError, RunnerFailed, Unsupported
from ollmlx.types import Done, Prefill, RawCall, Text, Thinking, ToolCalled
from ollmlx_llamacpp.client import LONGEST_PAUSE, SHORTEST_PAUSE, LlamaCppClient, RecordReader, error_of, pause, records

TIMINGS = {"cache_n": 24, "prompt_n": 8, "prompt_ms": 12.5, "predicted_n": 3, "predicted_ms": 4.0}


def reader(
    *, tops: int | None = None, show_thinking: bool = True, dropped: int = 0, calls: bool = False
) -> RecordReader:
    return RecordReader(dropped=dropped, top_logprobs=tops, show_thinking=show_thinking, calls=calls)


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields}]}


def final(stop_type: str = "eos", word: str = "") -> dict[str, Any]:
    verbose = {"stop_type": stop_type, "stopping_word": word}
    return {"choices": [{"index": 0, "delta": {}}], "timings": TIMINGS, "__verbose": verbose}


def done(read: RecordReader) -> Done:
    last = read.end((1, 2, 3))[-1]
    assert isinstance(last, Done)
    return last


def test_the_final_counts_are_llama_cpps() -> None:
    read = reader(dropped=5)
    assert read.feed(delta(role="assistant", content=None)) == []
    assert read.feed(delta(content="Hi")) == [Text(text="Hi")]
    read.feed(final())
    last = done(read)
    assert (last.prompt_tokens, last.cached_tokens, last.generated_tokens, last.dropped) == (32, 24, 3, 5)
    assert (last.prefill_ns, last.decode_ns, last.context) == (12_500_000, 4_000_000, (1, 2, 3))
    assert (last.reason, last.stop) == ("stop", None)


@pytest.mark.parametrize(
    ("stop_type", "word", "reason", "stop"),
    [("eos", "", "stop", None), ("limit", "", "length", None), ("word", " 3", "stop", " 3")],
)
def test_done_has_the_reason_of_the_end(stop_type: str, word: str, reason: str, stop: str | None) -> None:
    read = reader()
    read.feed(final(stop_type, word))
    assert (done(read).reason, done(read).stop) == (reason, stop)


def test_progress_of_the_prompt_is_an_event() -> None:
    progress = {"total": 42, "cache": 10, "processed": 20, "time_ms": 5}
    assert reader(dropped=1).feed({**delta(content=None), "prompt_progress": progress}) == [
        Prefill(done=20, total=42, cached=10, dropped=1)
    ]
    first = {"total": 42, "cache": 10, "processed": 0}
    assert reader().feed({"prompt_progress": first}) == [Prefill(done=0, total=42, cached=0)]


def test_thinking_is_shown_or_dropped() -> None:
    thought = delta(reasoning_content="hm")
    assert reader().feed(thought) == [Thinking(text="hm")]
    assert reader(show_thinking=False).feed(thought) == []


def test_tool_calls_are_sent_whole() -> None:
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


def test_a_call_whose_arguments_are_broken_is_passed_on_as_it_was_written() -> None:
    read = reader()
    read.feed(delta(tool_calls=[{"index": 0, "function": {"name": "weather", "arguments": '{"city":'}}]))
    read.feed(final())
    assert read.end(())[0] == RawCall(name="weather", text='{"city":')


def test_a_call_that_is_sent_as_text_is_passed_on_whole() -> None:
    read = reader(calls=True)
    assert read.feed({"content": '{"name"', "stop": False}) == []
    read.feed({"content": ': "clock"}', "stop": True, "stop_type": "eos", "timings": TIMINGS})
    assert read.end(())[0] == RawCall(text='{"name": "clock"}')


def test_plain_text_has_its_token_ids() -> None:
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


RECORDS = [{"content": "a\nb"}, {"content": "é{}"}, {"n": 1}]
WIRE = (
    "".join(f"data: {json.dumps(record, ensure_ascii=False)}\n\n" for record in RECORDS).encode() + b"data: [DONE]\n\n"
) + b'error: {"message": "no"}\n\n'


async def read(pieces: list[bytes]) -> list[object]:
    async def source() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return [record async for record in records(source())]


@given(st.lists(st.integers(0, len(WIRE)), max_size=8))
def test_records_are_whole_however_they_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WIRE)]
    pieces = [WIRE[start:end] for start, end in pairwise(edges)]
    assert asyncio.run(read(pieces)) == [*RECORDS, {"error": {"message": "no"}}]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"error": {"message": "why", "type": "exceed_context_size_error"}}', ContextExceeded),
        (b'{"error": {"message": "why", "type": "invalid_request_error"}}', InvalidRequest),
        (b'{"error": {"message": "why", "type": "not_supported_error"}}', Unsupported),
        (b'{"error": {"message": "why", "type": "something new"}}', RunnerFailed),
        (b'{"error": {"message": "why"}}', RunnerFailed),
        *((data, RunnerFailed) for data in (b"", b"<html>", b"[]", b'{"error": 5}', b"\xff")),
    ],
)
def test_an_error_of_llama_cpps_has_our_kind(data: bytes, expected: type[OllmlxError]) -> None:
    error = error_of(data)
    assert type(error) is expected
    assert error.message == "llama.cpp: why" or b"why" not in data


def test_a_refusal_of_llama_cpps_has_both_lengths() -> None:
    told = b'{"error": {"message": "why", "type": "exceed_context_size_error", "n_prompt_tokens": 90, "n_ctx": 64}}'
    error = error_of(told)
    assert isinstance(error, ContextExceeded)
    assert error.excess == (90, 64)


@pytest.mark.parametrize(
    ("waited", "elapsed", "seconds"),
    [
        (0.006, 0.0, SHORTEST_PAUSE),
        (0.006, 60.0, LONGEST_PAUSE),
        (0.03, 0.0, 0.0),
        (0.03, 1.0, 0.045),
        (0.1, 60.0, 0.0),
    ],
    ids=["at-the-beginning", "later", "slow-tokens", "several-answers", "a-large-model"],
)
def test_tokens_that_come_fast_are_read_together(waited: float, elapsed: float, seconds: float) -> None:
    assert pause(waited, elapsed) == pytest.approx(seconds)


async def test_an_answer_is_whole_whether_its_tokens_come_fast_or_slowly(tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for number in range(40):
            await response.write(b'data: {"n": %d}\n' % number)
            if number % 4 == 0:
                await asyncio.sleep(0.001)
        return response

    app = web.Application()
    app.add_routes([web.post("/completion", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, tmp_path / "s").start()
    client = LlamaCppClient(tmp_path / "s", "key")
    async with asyncio.timeout(30):
        assert [record["n"] async for record in client.stream("/completion", {})] == list(range(40))
    await client.close()
    await runner.cleanup()
