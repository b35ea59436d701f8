"""`ollmlx key`: keys are made, listed and revoked in the settings file; their use is printed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from ollmlx.cli.main import main
from ollmlx.keys import Usage
from ollmlx.settings.load import load_settings


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))


def test_a_key_is_printed_once_and_its_hash_is_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", "anna", "--models", "a, b*", "--tokens-per-day", "500", "--priority", "low"]) == 0
    printed = capsys.readouterr()
    key = printed.out.strip()
    found = load_settings().settings.security.keys["anna"]
    assert found.digest == hashlib.sha256(key.encode()).digest()
    assert (found.models, found.tokens_per_day, found.priority, found.concurrent) == (("a", "b*"), 500, "low", 0)
    assert key not in (home / "config" / "ollmlx" / "ollmlx.toml").read_text()
    assert "every client needs a key" in printed.err
    assert main(["key", "list"]) == 0
    assert "a, b*" in capsys.readouterr().out
    assert main(["key", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["anna"]["sha256"] == found.sha256
    assert main(["config", "show"]) == 0
    assert 'keys.anna.priority = "low"' in capsys.readouterr().out
    assert main(["key", "revoke", "anna"]) == 0
    assert load_settings().settings.security.keys == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["new"], "ollmlx key new NAME"),
        (["new", "key-12345678"], "needs a name"),
        (["new", "anna", "--concurrent", "-1"], "concurrent"),
        (["new", "anna", "--models", "a b"], "a b"),
        (["revoke", "nobody"], "no table"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], said: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", *words]) == 1
    assert said in capsys.readouterr().err
    assert not (home / "config").exists()


def test_use_is_printed_by_day(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usage = Usage(home / ".ollmlx")
    usage.add("anna", requests=3, tokens=1234)
    usage.add("ben", requests=1, tokens=7)
    usage.save()
    assert main(["key", "usage"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:] for line in lines[1:]] == [["anna", "3", "1234"], ["ben", "1", "7"]]
    assert main(["key", "usage", "ben", "--json"]) == 0
    (day,) = json.loads(capsys.readouterr().out).values()
    assert day == {"ben": {"requests": 1, "tokens": 7}}
