"""Anthropic's dialect: /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ollmlx import hookimpl


@hookimpl
def register_routes(register: Callable[[str, Any], None]) -> None:
    def make(service: Any) -> Any:
        from ollmlx_anthropic_api.routes import blueprint

        return blueprint(service)

    register("anthropic", make)
