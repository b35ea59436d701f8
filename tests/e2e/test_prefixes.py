"""A prefix holds although the client's account line changes; when it is missed, the reason is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ollmlx.testing.daemon import Daemon
from ollmlx.testing.waiting import wait_until

pytestmark = pytest.mark.e2e

RULES = "You are a coding agent, and you follow these rules to the letter. " * 20
BILLING = "x-anthropic-billing-header: cc_version=2.1.197.{}; cc_entrypoint=cli;"


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose model counts what it has seen as cached."""
    with Daemon(tmp_path_factory.mktemp("prefixes"), fakes={"parrot": {}}) as started:
        yield started


def ask(daemon: Daemon, *system: str) -> str:
    """Send what Claude Code sends; the header about the cache."""
    blocks = [{"type": "text", "text": text} for text in system]
    body = {"model": "parrot", "max_tokens": 9, "system": blocks, "messages": [{"role": "user", "content": "hi"}]}
    answer = daemon.post("/v1/messages", body)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["x-ollmlx-cache"])


def test_the_account_line_of_claude_code_does_not_change_the_prompt(daemon: Daemon) -> None:
    first = ask(daemon, BILLING.format("ac7"), RULES)
    cached, _, total = ask(daemon, BILLING.format("123"), RULES).partition("/")
    assert int(cached) == int(total) - 1  # the last token is always computed
    assert first.partition("/")[2] == total


def test_a_changed_system_prompt_is_explained(daemon: Daemon) -> None:
    ask(daemon, f"It is 10:31. {RULES}")
    header = ask(daemon, f"It is 10:32. {RULES}")
    assert "; the system prompt changes near token " in header
    assert "from 'It is 10:31. You are a coding" in header
    assert "to 'It is 10:32. You are a coding" in header
    # the line is written after the response
    wait_until(lambda: "missed=the system prompt changes near token" in daemon.log_text, 60, because=daemon.log_text)
    assert "10:32" not in daemon.log_text
    (runner,) = daemon.get("/api/ps").json()["models"]
    assert runner["missed"].startswith("the system prompt changes near token")
    assert "RUN018" in daemon.cli("doctor", "runners", "--deep").stdout
