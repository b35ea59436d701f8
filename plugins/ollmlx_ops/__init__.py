"""Routes for operators: `/livez`, `/readyz`, `/metrics` and `/api/daemon`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ollmlx import hookimpl


@hookimpl
def register_routes(register: Callable[[str, Any], None]) -> None:
    def make(service: Any) -> Any:
        from ollmlx_ops.routes import blueprint

        return blueprint(service)

    register("ops", make)
