"""Ollama's own HTTP API: the routes under `/api/` and the greeting at `/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ollmlx import hookimpl


@hookimpl
def register_routes(register: Callable[[str, Any], None]) -> None:
    def make(service: Any) -> Any:
        from ollmlx_ollama_api.routes import blueprint

        return blueprint(service)

    register("ollama", make)
