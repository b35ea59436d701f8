"""The inputs in the corpus, and bytes made from them, make each parser answer or refuse."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.parsers import CORPUS, PARSERS, replay

INPUTS = {name: [path.read_bytes() for path in sorted((CORPUS / name).iterdir())] for name in PARSERS}


def test_each_parser_has_a_small_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(PARSERS)
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000


@pytest.mark.parametrize("name", PARSERS)
def test_the_corpus_is_parsed_or_refused(name: str) -> None:
    for data in INPUTS[name]:
        replay(name, data)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=40)
@given(data=st.data())
def test_what_is_cut_joined_or_changed_is_parsed_or_refused(name: str, data: st.DataObject) -> None:
    one, other = (data.draw(st.sampled_from(INPUTS[name])) for _ in range(2))
    at, to = data.draw(st.integers(0, len(one))), data.draw(st.integers(0, len(other)))
    replay(name, one[:at] + data.draw(st.binary(max_size=8)) + other[to:])
