"""Named keys: what each may use, the day's count, and that a restart forgets nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ollmlx.errors import Forbidden, LimitReached
from ollmlx.keys import DAYS, Quotas, Usage, Used
from ollmlx.model.names import ModelName
from ollmlx.settings.model import SecuritySettings


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 30, 23, 0, tzinfo=timezone(timedelta(hours=2)))

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def usage(tmp_path: Path, clock: Clock) -> Usage:
    return Usage(tmp_path, clock)


def quotas(usage: Usage, **limits: Any) -> Quotas:
    keys = {"anna": {"key": "k", **limits}}
    return Quotas(SecuritySettings.model_validate({"keys": keys}), usage)


@pytest.mark.parametrize(
    ("models", "model", "allowed"),
    [
        ([], "llama3.2", True),
        (["llama3.2"], "llama3.2:latest", True),
        (["llama3.2"], "llama3.2:3b", False),
        (["qwen3*"], "QWEN3:8b", True),
        (["qwen3*"], "qwen2:8b", False),
        (["mlx-community/*"], "mlx-community/Qwen3-4B-4bit", True),
        (["mlx-community/*"], "mlx-community_secret", False),
        (["a", "b"], "b", True),
    ],
)
def test_a_key_may_use_the_models_of_its_list(usage: Usage, models: list[str], model: str, allowed: bool) -> None:
    limited, name = quotas(usage, models=models), ModelName.parse(model)
    assert limited.permits("anna", name) is allowed
    assert limited.permits("key-00000000", name)
    if not allowed:
        with pytest.raises(Forbidden, match="anna"):
            limited.check_model("anna", name)


@pytest.mark.parametrize(
    ("ceiling", "given"),
    [
        ("high", ["high", "normal", "low", "normal"]),
        ("normal", ["normal", "normal", "low", "normal"]),
        ("low", ["low", "low", "low", "low"]),
    ],
)
def test_the_priority_of_a_key_is_the_highest_of_its_requests(usage: Usage, ceiling: str, given: list[str]) -> None:
    limited = quotas(usage, priority=ceiling)
    assert [limited.priority("anna", asked) for asked in ("high", "normal", "low", "urgent")] == given
    assert limited.priority("key-00000000", "high") == "normal"


def test_where_no_keys_are_in_use_requests_have_the_priority_that_they_ask_for(usage: Usage) -> None:
    assert Quotas(SecuritySettings(), usage).priority("127.0.0.1", "high") == "high"


def test_requests_of_a_day_end_at_the_limit_and_begin_again_at_midnight(usage: Usage, clock: Clock) -> None:
    limited = quotas(usage, requests_per_day=2)
    for _ in range(2):
        limited.begin("anna")
        limited.end("anna", 5)
    with pytest.raises(LimitReached, match=r"2 requests of today; try again in 1h$") as refused:
        limited.begin("anna")
    assert refused.value.retry_after == 3600
    assert usage.today("anna") == Used(2, 10)
    clock.now += timedelta(hours=1)
    limited.begin("anna")
    assert usage.today("anna") == Used(1, 0)


def test_tokens_of_a_day_are_checked_before_a_request_begins(usage: Usage) -> None:
    limited = quotas(usage, tokens_per_day=100)
    limited.begin("anna")
    limited.end("anna", 150)
    with pytest.raises(LimitReached, match="100 tokens"):
        limited.begin("anna")


def test_requests_at_once_are_limited_for_each_key(usage: Usage) -> None:
    limited = quotas(usage, concurrent=1)
    limited.begin("anna")
    limited.begin("key-00000000")
    with pytest.raises(LimitReached, match="1 requests at once") as refused:
        limited.begin("anna")
    assert refused.value.retry_after == 1
    limited.end("anna", 0)
    limited.begin("anna")


def test_a_revoked_key_no_longer_counts(usage: Usage) -> None:
    limited = quotas(usage, concurrent=1)
    limited.begin("anna")
    limited.reconfigure(SecuritySettings())
    limited.end("anna", 9)
    assert usage.today("anna") == Used(1, 0)


def test_the_count_survives_a_restart_and_old_days_are_dropped(tmp_path: Path, usage: Usage, clock: Clock) -> None:
    for _ in range(DAYS + 5):
        usage.add("anna", requests=1, tokens=7)
        clock.now += timedelta(days=1)
    usage.save()
    assert (tmp_path / "usage.json").stat().st_mode & 0o077 == 0
    again = Usage(tmp_path, clock)
    again.load()
    assert len(again.days()) == DAYS
    assert set(map(str, again.days().values())) == {str({"anna": Used(1, 7)})}


def test_what_cannot_be_saved_is_told_once_and_saved_later(
    tmp_path: Path, usage: Usage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "usage.json").mkdir()
    usage.add("anna", requests=1)
    usage.save()
    usage.save()
    assert caplog.text.count("is not saved") == 1
    (tmp_path / "usage.json").rmdir()
    usage.save()
    again = Usage(tmp_path, clock)
    again.load()
    assert again.days() == usage.days()


def test_nothing_is_written_when_nothing_changed(tmp_path: Path, usage: Usage) -> None:
    usage.save()
    assert not (tmp_path / "usage.json").exists()


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"2026-11-30": {"anna": "many"}}', '{"2026-11-30": [1]}', '{"d": {"a": [1]}}']
)
def test_a_damaged_file_is_told_and_counted_anew(
    tmp_path: Path, usage: Usage, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (tmp_path / "usage.json").write_text(text)
    usage.load()
    assert usage.today("anna") == Used()
    assert "counted anew" in caplog.text
    usage.add("anna", requests=1)
    usage.save()
    assert json.loads((tmp_path / "usage.json").read_text()) == {"2026-11-30": {"anna": [1, 0]}}


def test_a_day_begins_at_the_midnight_of_this_machine(usage: Usage, clock: Clock) -> None:
    usage.add("anna", requests=1)
    clock.now = datetime(2026, 11, 30, 22, 30, tzinfo=UTC).astimezone(clock.now.tzinfo)
    assert usage.today("anna") == Used()
