"""llama.cpp's answers on the wire: records in any pieces, errors as our kinds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import ContextExceeded, InvalidRequest, OllmlxError, RunnerFailed, Unsupported
from ollmlx_llamacpp.link import error_of, records

RECORDS = [{"content": "a\nb"}, {"content": "é{}"}, {"n": 1}]
WIRE = (
    "".join(f"data: {json.dumps(record, ensure_ascii=False)}\n\n" for record in RECORDS).encode() + b"data: [DONE]\n\n"
)


async def read(pieces: list[bytes]) -> list[object]:
    async def source() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return [record async for record in records(source())]


@given(st.lists(st.integers(0, len(WIRE)), max_size=8))
def test_records_are_whole_however_they_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WIRE)]
    pieces = [WIRE[start:end] for start, end in pairwise(edges)]
    assert asyncio.run(read(pieces)) == RECORDS


async def test_an_error_among_the_records_is_a_record() -> None:
    assert await read([b'error: {"message": "no"}\n\n']) == [{"error": {"message": "no"}}]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("exceed_context_size_error", ContextExceeded),
        ("invalid_request_error", InvalidRequest),
        ("not_supported_error", Unsupported),
        ("server_error", RunnerFailed),
        ("something new", RunnerFailed),
    ],
)
def test_an_error_of_llama_cpps_has_our_kind(kind: str, expected: type[OllmlxError]) -> None:
    error = error_of(json.dumps({"error": {"message": "why", "type": kind}}).encode())
    assert type(error) is expected
    assert error.message == "llama.cpp: why"


@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b'{"error": 5}', b"\xff"])
def test_an_answer_that_is_no_error_record_is_a_failure(data: bytes) -> None:
    assert type(error_of(data)) is RunnerFailed
