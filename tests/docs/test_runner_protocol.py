"""The examples of docs/runner-protocol.md, run against a runner; and its tables, held against the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from ollmlx.errors import KINDS
from ollmlx.protocol import ExitCode, RunnerConfig
from ollmlx.runner.server import CLOSE_SECONDS, RUNNER_STATUS
from ollmlx.testing import fake_runner

PAGE = Path(__file__).parents[2] / "docs" / "runner-protocol.md"
TEXT = PAGE.read_text(encoding="utf-8")
ANYTHING = "…"


class Example(NamedTuple):
    """A request and the answer that the page shows for it."""

    method: str
    path: str
    body: str
    status: int
    lines: list[str]


def examples() -> list[Example]:
    blocks = re.findall(r"```http\n(.*?)```", TEXT, re.DOTALL)
    found = []
    for asked, told in zip(blocks[::2], blocks[1::2], strict=True):
        method, path = asked.partition("\n")[0].split()
        body = asked.partition("\n\n")[2].strip()
        status, _, lines = told.partition("\n\n")
        found.append(Example(method, path, body, int(status.split()[0]), lines.strip().splitlines()))
    return found


async def test_every_example_is_answered_as_the_page_says() -> None:
    async with fake_runner() as runner:
        await runner.ready()
        shown = sorted(examples(), key=lambda example: (example.path == "/v1/shutdown", example.path != "/v1/status"))
        assert len(shown) > 8
        for example in shown:
            async with runner.http.request(example.method, example.path, data=example.body) as answer:
                lines = (await answer.text()).splitlines()
            assert answer.status == example.status, lines
            for shown_line, line in zip(example.lines, lines, strict=True):
                wanted, found = _masked(json.loads(shown_line), json.loads(line))
                assert wanted == found, example.body
        assert await runner.exit_code() == ExitCode.ASKED


def _masked(shown: Any, told: Any) -> tuple[Any, Any]:
    """Both without what differs from run to run: durations, and where the page shows an ellipsis."""
    if isinstance(shown, dict) and isinstance(told, dict):
        hidden = {key for key, value in shown.items() if value == ANYTHING or key.endswith("_ns")}
        assert hidden <= told.keys()
        return ({k: v for k, v in each.items() if k not in hidden} for each in (shown, told))  # type: ignore[return-value]
    return shown, told


def test_the_table_of_statuses_is_the_code() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (`[a-z_` ]+) \|$", TEXT, re.MULTILINE)
    shown = {kind: int(status) for status, kinds in rows for kind in re.findall(r"`(\w+)`", kinds)}
    assert shown == RUNNER_STATUS
    assert RUNNER_STATUS.keys() == KINDS.keys()


def test_the_table_of_exit_codes_is_the_code() -> None:
    shown = {int(code) for code in re.findall(r"^\| (\d+) \| [a-z]", TEXT, re.MULTILINE)}
    assert shown == {value for name, value in vars(ExitCode).items() if name.isupper()}
    assert f"longer than {CLOSE_SECONDS:.0f} s" in TEXT


def test_the_configuration_that_is_shown_is_valid() -> None:
    block = TEXT.partition("```json\n")[2].partition("```")[0]
    assert RunnerConfig.model_validate_json(block).runner == "parrot#1"
