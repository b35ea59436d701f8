"""OpenAI's dialect: /v1/chat/completions, completions, responses, embeddings and models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ollmlx import hookimpl


@hookimpl
def register_routes(register: Callable[[str, Any], None]) -> None:
    def make(service: Any) -> Any:
        from ollmlx_openai_api.routes import blueprint

        return blueprint(service)

    register("openai", make)
