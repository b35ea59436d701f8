"""Two breakages at once: the doctor does not crash, its JSON is valid, and its first finding is one of the causes.

60 pairs are tried; `TEST_PAIRS=300` tries 300, the same ones each time.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.doctor.contexts import GB, HEALTHY, FakeDaemon, FakeProcesses, child, daemon, examined
from tests.unit.doctor.test_mending import BREAKAGES, Terminal

from ollmlx.errors.findings import Severity

pytestmark = pytest.mark.slow


def machine(**changes: Any) -> Callable[[Terminal], None]:
    def broken(terminal: Terminal) -> None:
        terminal.parts["machine"] = replace(terminal.parts.get("machine", HEALTHY), **changes)

    return broken


def part(**parts: Any) -> Callable[[Terminal], None]:
    return lambda terminal: terminal.parts.update(parts)


FAILED = {"runners": [{"name": "m", "state": "failed", "code": "RUN002", "error": "it crashed", "last_words": ["x"]}]}
MACHINES: list[tuple[str, str, Callable[[Terminal], None]]] = [
    ("a full disk", "STO003", machine(free_space=lambda _: 0)),
    ("few open files", "ENV004", machine(files_limit=256)),
    ("little memory", "ENV003", machine(ram=GB, available=GB)),
    ("a full swap", "ENV003", machine(swap_used=8 * GB, available=GB)),
    ("another Python", "ENV005", machine(implementation="PyPy")),
    ("a card without a driver", "ENV007", machine(nvidia_gpu=True)),
    ("MLX that cannot be loaded", "ENV001", part(child=child(1, "ImportError: libmlx.so"))),
    ("MLX that crashes", "ENV001", part(child=child(-11))),
    ("a clock of 1970", "ENV012", part(now=lambda: 0.0)),
    ("Ollama at the address", "NET004", part(daemon=daemon("/api/version", {"version": "0.12.0"}))),
    ("another key", "SEC004", part(daemon=daemon("/api/version", None, 401))),
    ("an older daemon", "NET004", part(daemon=daemon("/api/version", {"version": "0.12.0", "ollmlx": "0.0.1"}))),
    ("a daemon that is not ready", "NET008", part(daemon=daemon("/readyz", {"problems": ["it stops"]}, 503))),
    ("a failed runner", "RUN002", part(daemon=daemon("/api/daemon", FAILED))),
    ("a port in use", "NET001", part(daemon=FakeDaemon({}), processes=FakeProcesses(open=True))),
    ("an address that is taken", "NET001", part(daemon=FakeDaemon({}), processes=FakeProcesses(refusal="in use"))),
]
EVERY = [*BREAKAGES, *MACHINES]
PAIRS = [random.Random(number).sample(EVERY, 2) for number in range(int(os.environ.get("TEST_PAIRS", "60")))]


@pytest.mark.parametrize("pair", [pytest.param(pair, id=f"{pair[0][0]} and {pair[1][0]}") for pair in PAIRS])
def test_of_two_breakages_one_is_the_first_finding(
    tmp_path: Path, pair: list[tuple[str, str, Callable[[Terminal], None]]]
) -> None:
    terminal = Terminal(tmp_path)
    for _, _, breaks in pair:
        try:
            breaks(terminal)
        except OSError:  # the first left nothing that the second could break
            pytest.skip("these two exclude each other")
    report = examined(terminal.context())
    told = json.loads(json.dumps(report.as_json()))["findings"]
    assert not {"DOC001", "DOC002"} & {one["code"] for one in told}
    wrong = [one for one in report.findings if one.severity is not Severity.INFO]
    assert wrong[0].code in {code for _, code, _ in pair}
    shown = report.as_text(80)
    assert all(one["title"].split()[0] in shown for one in told if not one["follows_from"])
