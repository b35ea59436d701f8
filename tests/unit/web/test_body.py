"""Request bodies: strict JSON, compressed bodies, and bodies beyond the limit. None of them ends in a 500."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import RequestEntityTooLarge

from ollmlx.errors import InvalidRequest, TooLarge, UnsupportedEncoding
from ollmlx.web.kit.body import MAX_DEPTH, MOST_VALUES, ThrottledBody, parse_json, unpack

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)


@pytest.mark.fault(38)
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "Expecting"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": Infinity}', "Infinity is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": ' + b"9" * 5000 + b"}", "more than 1,000 characters: 9"),
        (b'{"a": 1.' + b"3" * 5000 + b"}", "more than 1,000 characters: 1.3"),
        (b'{"a": ' + b"9" * 400 + b"}", "out of range"),
        (b'{"a": 1, "a": 2}', "duplicate key 'a'"),
        (b'[{"x": {"b": 1, "b": 1}}]', "duplicate key 'b'"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * (MAX_DEPTH + 2) + b"1" + b"}" * (MAX_DEPTH + 2), "nested too deeply"),
        (b"{} {}", "Extra data"),
    ],
)
def test_invalid_json_is_refused_with_the_reason(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        parse_json(body)


MANY = MOST_VALUES + 2


@pytest.mark.fault(38)
@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"1," * MANY + b"1]",
        b"[" + b"[]," * MANY + b"[]]",
        b"[" + b"{}," * MANY + b"{}]",
        b"[" + b'"\\\\",' * MANY + b"1]",
        b"{" + b",".join(b'"%d":1' % number for number in range(MANY)) + b',"1":2}',
    ],
    ids=["numbers", "arrays", "objects", "texts", "keys"],
)
def test_too_many_values_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="more than 500,000 values"):
        parse_json(body)


def test_the_content_of_a_long_string_is_not_counted() -> None:
    text = '[1, "2", {}]\\' * MOST_VALUES
    assert parse_json(json.dumps({"a": text, "b": "\\", "c": text}).encode()) == {"a": text, "b": "\\", "c": text}


def test_a_duplicate_key_among_many_is_found() -> None:
    keys = b",".join(b'"%d":1' % number for number in range(200_000))
    with pytest.raises(InvalidRequest, match="duplicate key '199999'"):
        parse_json(b"{" + keys + b',"199999":2}')


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        ('{"a": "\U0001f600"}'.encode(), {"a": "\U0001f600"}),
        (b"\xef\xbb\xbf{}", {}),
        (b'{"a": [18446744073709551615, -9223372036854775808]}', {"a": [2**64 - 1, -(2**63)]}),
        (b'{"a": [18446744073709551616, -1000000000000000000000]}', {"a": [2.0**64, -1e21]}),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "nested"),
        (b"[" + b"[]," * 5000 + b"[]]", "wide"),
    ],
)
def test_json_of_real_clients_is_accepted(body: bytes, value: Any) -> None:
    found = parse_json(body)
    if not isinstance(value, str):
        assert found == value


@given(VALUES)
def test_valid_json_is_parsed_unchanged(value: Any) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair cannot be encoded
        return
    assert parse_json(text) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    with suppress(InvalidRequest):  # any other exception would become a 500
        parse_json(body)


# -- compressed bodies ------------------------------------------------------------------------------------------------

MIB = 1024 * 1024
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "zstd": zstandard.compress,
    "identity": bytes,
    "": bytes,
}


@pytest.mark.parametrize("encoding", PACKERS)
@given(body=st.binary(max_size=2000))
def test_a_compressed_body_is_read(encoding: str, body: bytes) -> None:
    assert unpack(PACKERS[encoding](body), f" {encoding.upper()} ", 2000) == body


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_small_body_that_unpacks_beyond_the_limit_is_refused_before_it_fills_the_memory(encoding: str) -> None:
    bomb = PACKERS[encoding](bytes(64 * MIB))
    assert len(bomb) < MIB
    tracemalloc.start()
    with pytest.raises(TooLarge, match="request body too large"):
        unpack(bomb, encoding, MIB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 36 * MIB
    assert len(unpack(PACKERS[encoding](bytes(MIB)), encoding, MIB)) == MIB


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@given(body=st.binary(max_size=50))
def test_a_body_that_is_not_compressed_is_refused(encoding: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"invalid {encoding} body"):
        unpack(b"{}" + body, encoding, MIB)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_that_is_cut_or_followed_by_more_is_refused(encoding: str) -> None:
    packed = PACKERS[encoding](b"{}")
    for damaged in (packed[:-1], packed[:5], packed + b"more", packed + bytes(5000)):
        with pytest.raises(InvalidRequest, match=f"invalid {encoding} body"):
            unpack(damaged, encoding, MIB)


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, zstd", "x" * 500])
def test_any_other_encoding_is_refused_by_name(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="Content-Encoding '") as refused:
        unpack(b"{}", encoding, MIB)
    assert refused.value.hint == "send it as it is, or with gzip or zstd"
    assert len(refused.value.message) < 120


@pytest.mark.fault(38)
async def test_a_body_that_is_too_large_is_not_kept_in_memory() -> None:
    body = ThrottledBody(None, 10)
    for piece in (b"0123456789", b"0", b"more"):
        body.append(piece)
    assert len(body._data) == 0
    with pytest.raises(RequestEntityTooLarge):
        await body
