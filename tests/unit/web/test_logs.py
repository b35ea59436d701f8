"""Log lines carry the request's id, stay one line, and can be read by machines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollmlx.settings import LoggingSettings, Settings, StorageSettings
from ollmlx.web.context import CURRENT, Exchange
from ollmlx.web.logs import LOG_FILE, configure, release

logger = logging.getLogger("ollmlx.test")


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    yield
    root.setLevel(before)


def written(folder: Path, **logs: object) -> str:
    settings = Settings(storage=StorageSettings(state=folder), logging=LoggingSettings.model_validate(logs))
    stream = io.StringIO()
    handlers = configure(settings, stream)
    try:
        token = CURRENT.set(Exchange("r1", "GET", "/x"))
        logger.info("hello %s", "a\r\nforged \x1b[31m line", extra={"fields": {"status": 200}})
        logger.debug("a step")
        logger.warning("of another", extra={"request": "r9", "runner": "parrot#1"})
        logger.warning("of none", extra={"request": ""})
        for library in ("ollmlx_hub.store", "httpx"):
            logging.getLogger(library).info("told by %s", library)
            logging.getLogger(library).warning("warned by %s", library)
        CURRENT.reset(token)
        logger.info("after")
    finally:
        release(handlers)
    return stream.getvalue()


@pytest.mark.fault(45)
def test_lines_for_people_carry_the_id_and_cannot_be_forged(tmp_path: Path) -> None:
    lines = written(tmp_path, file=False).splitlines()
    assert "request=r1" in lines[0]
    assert "forged" in lines[0]
    assert "\x1b" not in lines[0]
    assert lines[1].endswith("of another request=r9")
    assert lines[2].endswith("of none")
    assert lines[-1].endswith("after")


def test_plugins_are_heard_and_libraries_only_when_they_warn(tmp_path: Path) -> None:
    said = [json.loads(line)["message"] for line in written(tmp_path, file=False, format="json").splitlines()]
    assert said[3:-1] == ["told by ollmlx_hub.store", "warned by ollmlx_hub.store", "warned by httpx"]


def test_lines_for_machines_are_objects_with_the_summarys_fields(tmp_path: Path) -> None:
    first = json.loads(written(tmp_path, file=False, format="json").splitlines()[0])
    assert (first["request"], first["status"], first["level"]) == ("r1", 200, "info")


def test_a_line_may_say_itself_which_request_and_which_runner_it_is_about(tmp_path: Path) -> None:
    _, of_another, of_none, *_ = map(json.loads, written(tmp_path, file=False, format="json").splitlines())
    assert (of_another["request"], of_another["runner"]) == ("r9", "parrot#1")
    assert "request" not in of_none


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
