"""Compressed bodies: what is read, what is refused, and what never grows."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import InvalidRequest, TooLarge, UnsupportedEncoding
from ollmlx.web.kit.encoding import unpacked

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
def test_what_was_packed_is_unpacked(encoding: str, body: bytes) -> None:
    assert unpacked(PACKERS[encoding](body), f" {encoding.upper()} ", 2000) == body


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_small_body_that_would_grow_beyond_the_limit_is_refused_before_it_does(encoding: str) -> None:
    bomb = PACKERS[encoding](bytes(64 * MIB))
    assert len(bomb) < MIB
    tracemalloc.start()
    with pytest.raises(TooLarge, match="request body too large"):
        unpacked(bomb, encoding, MIB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 36 * MIB
    assert len(unpacked(PACKERS[encoding](bytes(MIB)), encoding, MIB)) == MIB


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@given(body=st.binary(max_size=50))
def test_what_was_not_packed_is_refused(encoding: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"invalid {encoding} body"):
        unpacked(b"{}" + body, encoding, MIB)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_ends_where_it_should(encoding: str) -> None:
    packed = PACKERS[encoding](b"{}")
    for damaged in (packed[:-1], packed[:5], packed + b"more", packed + bytes(5000)):
        with pytest.raises(InvalidRequest, match=f"invalid {encoding} body"):
            unpacked(damaged, encoding, MIB)


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, zstd", "x" * 500])
def test_any_other_encoding_is_named_and_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="Content-Encoding '") as refused:
        unpacked(b"{}", encoding, MIB)
    assert refused.value.hint == "send it as it is, or with gzip or zstd"
    assert len(refused.value.message) < 120
