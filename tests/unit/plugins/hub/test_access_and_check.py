"""The hub's address and token, from settings, variables and a login; and the check of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.servers.hub import HubServer

from ollmlx import Finding, ModelName
from ollmlx.testing import CheckContext
from ollmlx_hub.check import HubCheck
from ollmlx_hub.client import DEFAULT_ENDPOINT, HubAccess, HubSettings
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
    access = HubSettings().access({**home, "HF_ENDPOINT": "https://mirror.example/"})
    assert (access.endpoint, access.token) == ("https://mirror.example", None)
    assert HubSettings().access(home).endpoint == DEFAULT_ENDPOINT


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


# -- the check ---------------------------------------------------------------------------------------------------------

ONLINE = CheckContext(online=True)


async def findings(context: CheckContext, endpoint: str = "", token: str = "") -> list[Finding]:
    return list(await HubCheck(HubSettings(endpoint=endpoint, token=SecretStr(token))).run(context))


async def test_without_online_no_request_is_made(hub: HubServer) -> None:
    assert await findings(CheckContext(), hub.url) == []
    assert hub.front.asked == []


@pytest.mark.finding("NET006")
async def test_a_token_that_the_hub_refuses_is_reported_and_not_shown(hub: HubServer) -> None:
    hub.token = "right"
    assert await findings(ONLINE, hub.url, "right") == []
    (found,) = await findings(ONLINE, hub.url, "hf_wrongwrongwrong")
    assert (found.code, found.subject) == ("NET006", hub.url)
    assert "does not accept the token" in found.title
    assert found.commands == ("unset HF_TOKEN", "hf auth login")
    assert "wrongwrong" not in found.model_dump_json()


@pytest.mark.finding("NET005")
async def test_an_unreachable_hub_is_reported_with_the_setting_that_names_it(free_port: int) -> None:
    nowhere = f"http://127.0.0.1:{free_port}"
    (found,) = await findings(replace(ONLINE, environ={"HF_ENDPOINT": nowhere}))
    assert found.code == "NET005"
    assert found.evidence[0] == f"the hub is {nowhere}, by HF_ENDPOINT"
    assert "unset HF_ENDPOINT" in found.commands
    (found,) = await findings(ONLINE, nowhere)
    assert found.evidence[0].endswith("by [plugins.hub] endpoint")
    (found,) = await findings(replace(ONLINE, environ={"HF_ENDPOINT": "huggingface.co"}))
    assert (found.code, "cannot reach the hub at huggingface.co" in found.title) == ("NET005", True)
