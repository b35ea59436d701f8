"""Log lines carry the request's id, stay one line, and can be read by machines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollmlx.settings import LoggingSettings, Settings, StorageSettings
from ollmlx.web.exchange import CURRENT, Exchange
from ollmlx.web.logs import LOG_FILE, configure, release

logger = logging.getLogger("ollmlx.test")


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    root = logging.getLogger("ollmlx")
    before = root.level, root.propagate
    yield
    root.setLevel(before[0])
    root.propagate = before[1]


def written(folder: Path, **logs: object) -> str:
    settings = Settings(storage=StorageSettings(state=folder), logging=LoggingSettings.model_validate(logs))
    stream = io.StringIO()
    handlers = configure(settings, stream)
    try:
        token = CURRENT.set(Exchange("r1", "GET", "/x"))
        logger.info("hello %s", "a\r\nforged \x1b[31m line", extra={"fields": {"status": 200}})
        logger.debug("a step")
        CURRENT.reset(token)
        logger.info("after")
    finally:
        release(handlers)
    return stream.getvalue()


@pytest.mark.fault(45)
def test_lines_for_people_carry_the_id_and_cannot_be_forged(tmp_path: Path) -> None:
    lines = written(tmp_path, file=False).splitlines()
    assert len(lines) == 2
    assert "request=r1" in lines[0]
    assert "\x1b" not in lines[0]
    assert "request=" not in lines[1]


def test_lines_for_machines_are_objects_with_the_summarys_fields(tmp_path: Path) -> None:
    first = json.loads(written(tmp_path, file=False, format="json").splitlines()[0])
    assert (first["request"], first["status"], first["level"]) == ("r1", 200, "info")


def test_debug_shows_each_step(tmp_path: Path) -> None:
    assert "a step" in written(tmp_path, file=False, level="debug")


def test_the_file_is_private_and_has_the_same_lines(tmp_path: Path) -> None:
    written(tmp_path)
    file = tmp_path / "logs" / LOG_FILE
    assert file.stat().st_mode & 0o077 == 0
    assert [json.loads(line)["message"] for line in file.read_text().splitlines()][-1] == "after"


def test_a_finished_requests_id_is_not_carried_by_what_outlives_it(tmp_path: Path) -> None:
    exchange = Exchange("r2", "GET", "/x")
    exchange.over = True
    token = CURRENT.set(exchange)
    assert "r2" not in written(tmp_path, file=False).splitlines()[-1]
    CURRENT.reset(token)
