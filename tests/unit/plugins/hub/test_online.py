"""`ollmlx doctor --online`: whether the hub is there, and whether it takes the token."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import SecretStr
from tests.servers.hub import HubServer

from ollmlx import Finding
from ollmlx.testing import CheckContext
from ollmlx_hub.check import HubCheck
from ollmlx_hub.settings import HubSettings

ONLINE = CheckContext(online=True)


async def asked(world: CheckContext, endpoint: str = "", token: str = "") -> list[Finding]:
    return list(await HubCheck(HubSettings(endpoint=endpoint, token=SecretStr(token))).run(world))


async def test_without_online_nothing_is_asked(hub: HubServer) -> None:
    assert await asked(CheckContext(), hub.url) == []
    assert hub.hub.asked == []


@pytest.mark.parametrize("token", ["", "right"])
async def test_a_hub_that_answers_is_no_finding(hub: HubServer, token: str) -> None:
    hub.token = "right"
    assert await asked(ONLINE, hub.url, token) == []
    assert len(hub.hub.asked) == 1


@pytest.mark.finding("NET006")
async def test_a_token_that_the_hub_does_not_know_is_told_and_not_shown(hub: HubServer) -> None:
    hub.token = "right"
    (found,) = await asked(ONLINE, hub.url, "hf_wrongwrongwrong")
    assert (found.code, found.subject) == ("NET006", hub.url)
    assert "does not accept the token" in found.title
    assert found.commands == ("unset HF_TOKEN", "hf auth login")
    assert "wrongwrong" not in found.model_dump_json()


@pytest.mark.finding("NET005")
async def test_a_hub_that_cannot_be_reached_is_told_with_who_named_it(free_port: int) -> None:
    nowhere = f"http://127.0.0.1:{free_port}"
    (found,) = await asked(replace(ONLINE, environ={"HF_ENDPOINT": nowhere}))
    assert found.code == "NET005"
    assert found.evidence[0] == f"the hub is {nowhere}, by HF_ENDPOINT"
    assert "unset HF_ENDPOINT" in found.commands
    (found,) = await asked(ONLINE, nowhere)
    assert found.evidence[0].endswith("by [plugins.hub] endpoint")


async def test_an_endpoint_that_is_no_address_is_told_as_such() -> None:
    (found,) = await asked(replace(ONLINE, environ={"HF_ENDPOINT": "huggingface.co"}))
    assert found.code == "NET005"
    assert "cannot reach the hub at huggingface.co" in found.title
