"""Where the hub is and who asks: settings, then variables, then a login."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollmlx import ModelName
from ollmlx_hub.settings import DEFAULT_ENDPOINT, HubAccess, HubSettings
from ollmlx_hub.source import HubSource


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "token").write_text("from-login\n")
    return {"HF_HOME": str(tmp_path)}


def test_settings_come_first_then_variables_then_the_login(home: dict[str, str]) -> None:
    variables = {**home, "HF_TOKEN": "from-variable"}
    stated = HubSettings.model_validate({"token": "from-settings"})
    assert stated.access(variables).token == "from-settings"
    assert HubSettings().access(variables).token == "from-variable"
    assert HubSettings().access(home).token == "from-login"
    assert HubSettings().access({"HF_HOME": "/nowhere"}).token is None


def test_a_login_is_not_sent_to_another_hub(home: dict[str, str]) -> None:
    access = HubAccess.of({**home, "HF_ENDPOINT": "https://mirror.example/"})
    assert (access.endpoint, access.token) == ("https://mirror.example", None)
    assert HubAccess.of(home).endpoint == DEFAULT_ENDPOINT


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(HubAccess(token="secret"))
    assert "secret" not in repr(HubSettings.model_validate({"token": "secret"}))


@pytest.mark.parametrize(
    ("text", "provided"),
    [
        ("org/name", "hub:org/name@main"),
        ("org_name", "hub:org/name@main"),
        ("hf.co/org/name:v2", "hub:org/name@v2"),
        ("llama3.2:3b", "hub:mlx-community/Llama-3.2-3B-Instruct-4bit@main"),
        ("nothing", None),
        ("smollm2:135m", None),
        ("registry.example/org/name", None),
    ],
)
def test_names_are_repositories_and_revisions(text: str, provided: str | None) -> None:
    assert HubSource(HubAccess()).provides(ModelName.parse(text)) == provided
