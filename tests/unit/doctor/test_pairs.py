"""Two breakages at once: the doctor does not crash, its JSON is valid, and its first finding is one of the causes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.doctor.contexts import examined
from tests.unit.doctor.test_mending import BREAKAGES, Terminal

pytestmark = pytest.mark.slow

Breakage = tuple[str, str, Callable[[Terminal], None]]
PAIRS: list[tuple[Breakage, Breakage]] = [
    (one, other) for one, other in (random.Random(number).sample(BREAKAGES, 2) for number in range(60))
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), [pytest.param(*pair, id=f"{pair[0][0]} and {pair[1][0]}") for pair in PAIRS])
def test_of_two_breakages_one_is_the_first_finding(tmp_path: Path, one: Breakage, other: Breakage) -> None:
    terminal = Terminal(tmp_path)
    for _, _, breaks in (one, other):
        try:
            breaks(terminal)
        except OSError:  # the first left nothing that the second could break
            pytest.skip("these two exclude each other")
    report = examined(terminal.context())
    assert json.loads(json.dumps(report.as_json()))["findings"]
    wrong = terminal.wrong()
    assert not {"DOC001", "DOC002"} & {finding.code for finding in wrong}
    assert wrong[0].code in {one[1], other[1]}
