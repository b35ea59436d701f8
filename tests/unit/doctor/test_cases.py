"""The machines of `cases.toml`: the doctor names the cause first, and what it prints mends it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.unit.doctor.cases import Case, cases, judge, patient

pytestmark = pytest.mark.slow

CASES = list(cases())
THREAD = re.compile(r"[\w.-]+/[\w.-]+#\d+")


@pytest.fixture(scope="module", autouse=True)
def mlx_lm() -> None:
    """Import mlx-lm before the first test: it sets variables of the process."""
    import mlx_lm.utils  # noqa: F401


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_the_cause_is_named_first_and_the_printed_commands_mend_it(case: Case, tmp_path: Path) -> None:
    with patient():
        verdict = judge(case, tmp_path)
    assert verdict.first is not None, "nothing was found"
    assert verdict.named, verdict.first
    if case.mended:
        assert verdict.left == ()


def test_the_cases_are_many_have_names_of_their_own_and_say_where_they_were_seen() -> None:
    assert len(CASES) >= 120
    assert sum(case.mended for case in CASES) >= 80
    assert len({case.name for case in CASES}) == len(CASES)
    assert [case.name for case in CASES if not THREAD.fullmatch(case.seen)] == []
