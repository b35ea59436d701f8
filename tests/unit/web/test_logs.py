"""Log lines carry the id of their request, stay one line, and can be read by machines."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest

from ollmlx.settings.model import LoggingSettings, Settings, StorageSettings
from ollmlx.web.context import CURRENT, RequestContext
from ollmlx.web.logs import LOG_FILE, logging_to

logger = logging.getLogger("ollmlx.test")


def written(folder: Path, **logs: object) -> str:
    settings = Settings(storage=StorageSettings(state=folder), logging=LoggingSettings.model_validate(logs))
    stream = io.StringIO()
    with logging_to(stream, settings):
        token = CURRENT.set(RequestContext("r1", "GET", "/x"))
        logger.info("hello %s", "a\r\nforged \x1b[31m line", extra={"fields": {"status": 200}})
        logger.debug("a step")
        logger.warning("of another", extra={"request": "r9", "runner": "parrot#1"})
        logger.warning("of none", extra={"request": ""})
        for library in ("ollmlx_hub.store", "httpx"):
            logging.getLogger(library).info("info of %s", library)
            logging.getLogger(library).warning("warning of %s", library)
        CURRENT.reset(token)
        logger.info("after")
    return stream.getvalue()


@pytest.mark.fault(45)
def test_console_lines_carry_the_request_id_and_escape_control_characters(tmp_path: Path) -> None:
    lines = written(tmp_path, file=False).splitlines()
    assert "request=r1" in lines[0]
    assert "forged" in lines[0]
    assert "\x1b" not in lines[0]
    assert lines[1].endswith("of another request=r9")
    assert lines[2].endswith("of none")
    assert lines[-1].endswith("after")


def test_json_lines_can_be_read_by_machines(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in written(tmp_path, file=False, format="json").splitlines()]
    first, of_another, of_none, *of_libraries, _ = lines
    assert (first["request"], first["status"], first["level"]) == ("r1", 200, "info")
    assert (of_another["request"], of_another["runner"]) == ("r9", "parrot#1")
    assert "request" not in of_none
    messages = [line["message"] for line in of_libraries]
    assert messages == ["info of ollmlx_hub.store", "warning of ollmlx_hub.store", "warning of httpx"]


def test_debug_lines_are_written_at_debug_level(tmp_path: Path) -> None:
    assert "a step" in written(tmp_path, file=False, level="debug")


def test_the_file_is_private_and_has_the_same_lines(tmp_path: Path) -> None:
    written(tmp_path)
    file = tmp_path / "logs" / LOG_FILE
    assert file.stat().st_mode & 0o077 == 0
    assert [json.loads(line)["message"] for line in file.read_text().splitlines()][-1] == "after"


def test_lines_of_a_task_that_outlives_its_request_carry_no_request_id(tmp_path: Path) -> None:
    context = RequestContext("r2", "GET", "/x")
    context.ended = True
    token = CURRENT.set(context)
    assert "r2" not in written(tmp_path, file=False).splitlines()[-1]
    CURRENT.reset(token)
