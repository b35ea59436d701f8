"""Ollama's own HTTP API: the routes under `/api/` and the greeting at `/`."""

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
        from ollmlx_ollama_api.routes import blueprint

        return blueprint(service)

    register("ollama", make)
