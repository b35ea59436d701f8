"""JSON bodies are read strictly, and never end in a 500."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import InvalidRequest
from ollmlx.web.kit.body import MAX_DEPTH, MOST_VALUES, parse_json

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
def test_what_is_not_strict_json_is_refused_with_the_reason(body: bytes, reason: str) -> None:
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
def test_more_values_than_can_be_looked_at_in_passing_are_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="more than 500,000 values"):
        parse_json(body)


def test_what_a_long_text_contains_is_not_counted() -> None:
    text = '[1, "2", {}]\\' * MOST_VALUES
    assert parse_json(json.dumps({"a": text, "b": "\\", "c": text}).encode()) == {"a": text, "b": "\\", "c": text}


def test_a_key_that_comes_twice_among_many_is_found_at_once() -> None:
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
def test_what_real_clients_send_is_taken(body: bytes, value: Any) -> None:
    found = parse_json(body)
    if not isinstance(value, str):
        assert found == value


@given(VALUES)
def test_whatever_is_json_comes_through_unchanged(value: Any) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair is no text
        return
    assert parse_json(text) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with suppress(InvalidRequest):  # anything else would be answered 500
        parse_json(body)
