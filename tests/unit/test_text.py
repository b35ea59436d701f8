"""Durations and sizes as people and Ollama write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import ConfigError
from ollmlx.text.addresses import Address, is_loopback
from ollmlx.text.quantities import FOREVER, format_count, format_duration, format_size, parse_duration, parse_size

DURATIONS: list[tuple[float | str, float]] = [
    (300, 300), (0, 0), (-1, FOREVER), (1.5, 1.5), ("300", 300), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25),
    ("1.5h", 5400), ("-1m", FOREVER), ("0", 0), ("0s", 0), ("2d", 172800),
]  # fmt: skip


@pytest.mark.parametrize(("written", "seconds"), DURATIONS)
def test_durations_are_read_as_go_reads_them(written: float | str, seconds: float) -> None:
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize("written", ["", "5 m", "five", "5x", "m", "--5m", "1h-3m", True, math.nan, "nan"])
def test_a_text_that_is_no_duration_is_refused(written: float | str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(written)


@given(st.integers(0, 10_000_000))
def test_a_written_duration_reads_back(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


SIZES: list[tuple[int | str, int]] = [
    (0, 0), (1024, 1024), ("1024", 1024), ("8GiB", 8 * 1024**3), ("8 GB", 8 * 1000**3), ("12g", 12 * 1024**3),
    ("1.5GiB", 3 * 512 * 1024**2), ("500MB", 500_000_000),
]  # fmt: skip


@pytest.mark.parametrize(("written", "size"), SIZES)
def test_sizes_are_read(written: int | str, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["", "8 gigs", "-1", -1, True, "1e9", "GB"])
def test_a_text_that_is_no_size_is_refused(written: int | str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(written)


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (1_500, "1.5 KB"), (270_000_000, "270 MB"), (2_000_000_000, "2.0 GB")],
)
def test_sizes_are_shown_as_ollama_shows_them(size: int, shown: str) -> None:
    assert format_size(size) == shown


@pytest.mark.parametrize(
    ("number", "text"),
    [(134_515_008, "134.52M"), (3_212_749_888, "3.2B"), (70_000_000_000, "70B"), (12_000_000, "12M"), (999, "999")],
)
def test_parameter_counts_read_as_ollama_prints_them(number: int, text: str) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", "http://127.0.0.1:11434"),
        ("localhost", "http://localhost:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ("1.2.3.4:56", "http://1.2.3.4:56"),
        ("http://example.com", "http://example.com:80"),
        ("https://example.com/ollama/", "https://example.com:443/ollama"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:80", "http://[::1]:80"),
        ("::1", "http://[::1]:11434"),
        (' "host:1" ', "http://host:1"),
    ],
)
def test_missing_parts_have_the_defaults_of_ollama(text: str, meant: str) -> None:
    assert str(Address.parse(text)) == meant


@pytest.mark.parametrize("text", ["host:port", "host:65536", "ftp://host", "a b", "[::1", "[host]:1", "1:2:3", "-x"])
def test_a_text_that_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="invalid address"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "dialled", "local"),
    [
        ("0.0.0.0", "127.0.0.1", True),
        ("[::]:1", "::1", True),
        ("localhost", "localhost", True),
        ("127.9.9.9", "127.9.9.9", True),
        ("10.0.0.1", "10.0.0.1", False),
        ("example.com", "example.com", False),
    ],
)
def test_a_client_dials_this_machine_for_a_wildcard(text: str, dialled: str, *, local: bool) -> None:
    address = Address.parse(text)
    assert (address.dialled, address.is_local) == (dialled, local)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        address = Address.parse(text)
    except ConfigError:
        return
    assert 0 <= address.port <= 65535
    assert address.path or Address.parse(str(address)) == address


def test_only_loopback_addresses_stay_on_this_machine() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.1.2", "box.lan"]))
