"""The doctor as a person runs it."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


def test_a_healthy_daemon_gives_nothing_above_info(daemon: Any) -> None:
    started = daemon()
    told = json.loads(started.cli("doctor", "server", "--json").stdout)
    assert told["findings"] == []
    wrong = started.cli("doctor", "nothing")
    assert wrong.returncode != 0
    assert "groups: config, machine" in wrong.stderr


def test_with_everything_broken_it_names_all_of_it_in_bounded_time(daemon: Any) -> None:
    started = daemon()
    started.stop()
    started.config.write_text('[server]\nhosst = 1\n[runners]\nparallel = "x"\n', encoding="utf-8")
    started.environment |= {"OLLAMA_KEEP_ALIVE": "abc", "HTTP_PROXY": "http://127.0.0.1:1"}
    done = started.cli("doctor", "--json", "--config", str(started.config))
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert told["seconds"] < 5
    found = {(one["code"], one["subject"]) for one in told["findings"]}
    assert ("CFG003", f"{started.config}, line 2") in found
    assert ("CFG004", f"{started.config}, line 4") in found
    assert ("CFG006", "OLLAMA_KEEP_ALIVE") in found
    assert "NET007" in {code for code, _ in found}
    explained = started.cli("doctor", "--explain", "CFG002", "--config", str(started.config))
    assert explained.stdout.startswith("# CFG002: ")
