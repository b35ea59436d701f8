"""ollmlx's own route families keep the contract of every route family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from quart import Blueprint

from ollmlx import Service
from ollmlx.plugin.loader import load_plugins
from ollmlx.settings import Settings
from ollmlx.testing import RoutesSuite
from ollmlx.testing.routes import FakeService, fake_app
from ollmlx.web.create_app import create_app
from ollmlx.web.openapi import openapi as openapi_document
from ollmlx_anthropic_api.routes import blueprint as anthropic
from ollmlx_ollama_api.routes import blueprint as ollama
from ollmlx_openai_api.routes import blueprint as openai
from ollmlx_ops.doctor import DoctorRuns
from ollmlx_ops.routes import blueprint as ops
from ollmlx_page.routes import blueprint as page


class TestOllama(RoutesSuite):
    def make_routes(self) -> Callable[[Service], Blueprint]:
        return ollama


class TestOpenAI(RoutesSuite):
    def make_routes(self) -> Callable[[Service], Blueprint]:
        return openai


class TestAnthropic(RoutesSuite):
    def make_routes(self) -> Callable[[Service], Blueprint]:
        return anthropic


class TestOps(RoutesSuite):
    @pytest.fixture(autouse=True)
    def no_doctor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leave the doctor out: it takes seconds, and clients send it nothing."""

        async def nothing(*_: object) -> bytes:
            return b"{}"

        for name in ("report", "page", "bundle"):
            monkeypatch.setattr(DoctorRuns, name, nothing)

    def make_routes(self) -> Callable[[Service], Blueprint]:
        return ops


class TestPage(RoutesSuite):
    def make_routes(self) -> Callable[[Service], Blueprint]:
        return page


FAMILIES = {
    "ollama_api": "/api/chat",
    "openai_api": "/v1/chat/completions",
    "anthropic_api": "/v1/messages",
    "ops": "/metrics",
    "page": "/ui",
}


@pytest.mark.parametrize("off", FAMILIES)
async def test_a_family_that_is_switched_off_is_gone_and_the_others_stay(off: str) -> None:
    settings = Settings.model_validate({"plugins": {"disabled": [off]}})
    web = create_app(fake_app(FakeService(settings=settings), load_plugins(settings)))
    client: Any = web.test_client()
    described = openapi_document(web, "1")["paths"]
    for family, path in FAMILIES.items():
        answer = await client.open(path, method="GET" if family in ("ops", "page") else "POST", data=b"")
        assert (answer.status_code == 404) is (path not in described) is (family == off), path
