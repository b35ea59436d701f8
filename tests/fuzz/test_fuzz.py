"""A live daemon gets requests that `/openapi.json` allows, and others. RoutesSuite sends the hostile bodies."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.campaign import MODELS, campaign
from tests.fuzz.parsers import CORPUS, PARSERS, replay

from ollmlx.testing.daemon import Daemon

CASES = 200


@pytest.mark.e2e
@pytest.mark.slow
def test_every_answer_is_one_the_description_names(tmp_path: Path) -> None:
    with Daemon(tmp_path / "daemon", fakes={name: {} for name in MODELS}) as server:
        report = campaign(server.url, CASES, seed=20260101)
        assert report.failures == []
        assert report.cases >= CASES * 0.9
        assert report.statuses[200] > CASES / 5, report.statuses
        assert "Traceback" not in server.log_text


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
