"""Lantern models: a backend, the store that keeps them, a route family and a check of the doctor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from ollmlx import hookimpl

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from quart import Blueprint

    from ollmlx import Backend, Check, PluginContext, Service, Store

ollmlx_api = 1


class LanternSettings(BaseModel):
    """The table `[plugins.lantern]`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    oil: int = Field(10, ge=0, description="How much oil there is.")


@hookimpl
def register_settings(register: Callable[[type[BaseModel]], None]) -> None:
    register(LanternSettings)


@hookimpl
def register_backends(register: Callable[[Backend], None]) -> None:
    from ollmlx_lantern.backend import LanternBackend

    register(LanternBackend())


@hookimpl
def register_stores(register: Callable[[Store], None], context: PluginContext) -> None:
    from ollmlx_lantern.store import LanternStore

    register(LanternStore(context.typed().models_folder / "lantern"))


@hookimpl
def register_routes(register: Callable[[str, Callable[[Service], Blueprint]], None], context: PluginContext) -> None:
    from ollmlx_lantern.routes import family

    register("lantern", family(context.own.oil))


@hookimpl
def register_checks(register: Callable[[Check, Traversable | None], None], context: PluginContext) -> None:
    from importlib.resources import files

    from ollmlx_lantern.check import OilCheck

    register(OilCheck(context.own.oil), files("ollmlx_lantern") / "pages")
