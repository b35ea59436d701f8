"""Anthropic's dialect: /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ollmlx import hookimpl

if TYPE_CHECKING:
    from quart import Blueprint

    from ollmlx import Service


@hookimpl
def register_routes(register: Callable[[str, Callable[[Service], Blueprint]], None]) -> None:
    """Register the family."""

    def make(service: Service) -> Blueprint:
        from ollmlx_anthropic_api.routes import blueprint

        return blueprint(service)

    register("anthropic", make)
