"""Routes for operators: `/livez`, `/readyz`, `/metrics` and `/api/daemon`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ollmlx import hookimpl

if TYPE_CHECKING:
    from quart import Blueprint

    from ollmlx import Service


@hookimpl
def register_routes(register: Callable[[str, Callable[[Service], Blueprint]], None]) -> None:
    """Register the family. Quart is imported only when the family is built."""

    def make(service: Service) -> Blueprint:
        from ollmlx_ops.routes import blueprint

        return blueprint(service)

    register("ops", make)
