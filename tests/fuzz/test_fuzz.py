"""A live daemon gets requests that `/openapi.json` allows, and others. RoutesSuite sends the hostile bodies."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz.campaign import MODELS, campaign

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
