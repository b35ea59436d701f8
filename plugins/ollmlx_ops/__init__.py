"""For operators: `/livez`, `/readyz` and `/metrics`."""

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
        from ollmlx_ops.blueprint import blueprint

        return blueprint(service)

    register("ops", make)
