"""The daemon's address, written as OLLAMA_HOST is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import ConfigError
from ollmlx.text.addresses import Address, is_loopback


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
