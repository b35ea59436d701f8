"""ollmlx's own route families keep the contract of every route family."""

from __future__ import annotations

from collections.abc import Callable

from quart import Blueprint

from ollmlx import Service
from ollmlx.testing import RoutesSuite


class TestOllama(RoutesSuite):
    def make_routes(self) -> Callable[[Service], Blueprint]:
        from ollmlx_ollama_api.blueprint import blueprint

        return blueprint


class TestOpenAI(RoutesSuite):
    def make_routes(self) -> Callable[[Service], Blueprint]:
        from ollmlx_openai_api.routes import blueprint

        return blueprint


class TestAnthropic(RoutesSuite):
    def make_routes(self) -> Callable[[Service], Blueprint]:
        from ollmlx_anthropic_api.routes import blueprint

        return blueprint


class TestOps(RoutesSuite):
    def make_routes(self) -> Callable[[Service], Blueprint]:
        from ollmlx_ops.blueprint import blueprint

        return blueprint
