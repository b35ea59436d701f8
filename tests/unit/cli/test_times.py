"""Times as people say them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ollmlx.cli.times import about, ago, parse_time, spent, until

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (299, "4 minutes"),
        (3600, "About an hour"),
        (2 * 3600, "2 hours"),
        (86400, "1 day"),
        (3 * 86400, "3 days"),
        (8 * 86400, "1 week"),
        (45 * 86400, "1 month"),
        (800 * 86400, "2 years"),
    ],
)
def test_a_duration_is_told_in_its_largest_unit(seconds: float, said: str) -> None:
    assert about(seconds) == said


def test_a_loaded_model_goes_in_some_minutes_or_never_or_now() -> None:
    assert until((NOW + timedelta(minutes=4, seconds=30)).isoformat(), NOW) == "4 minutes from now"
    assert until("2318-01-01T00:00:00Z", NOW) == "Forever"
    assert until("", NOW) == "Forever"
    assert until((NOW - timedelta(seconds=1)).isoformat(), NOW) == "Stopping..."


def test_a_model_was_modified_some_time_ago() -> None:
    assert ago((NOW - timedelta(days=2)).isoformat(), NOW) == "2 days ago"
    assert ago((NOW + timedelta(hours=3)).isoformat(), NOW) == "3 hours from now"
    assert ago("", NOW) == "Never"


def test_nine_fractional_digits_and_any_zone_are_read() -> None:
    assert parse_time("2026-05-01T14:00:00.123456789+02:00") == NOW.replace(microsecond=123456)


@pytest.mark.parametrize(
    ("nanoseconds", "said"),
    [(0, "0s"), (35_000, "35µs"), (812_400_000, "812.4ms"), (2_500_000_000, "2.5s"), (62_300_000_000, "1m2.3s")],
)
def test_measured_durations_are_short(nanoseconds: int, said: str) -> None:
    assert spent(nanoseconds) == said
