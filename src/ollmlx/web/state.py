"""What one web application shares among its parts: settings, drain, error shapes, observers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from quart import Response

from ollmlx.settings import Settings
from ollmlx.web.access_log import AccessLog
from ollmlx.web.context import Exchange
from ollmlx.web.kit.errors import Shapes
from ollmlx.web.security import Policy
from ollmlx.web.server.drain import Drain

if TYPE_CHECKING:
    from quart import Blueprint, Quart

Observer = Callable[[Exchange], None]
"""Told of each exchange when it is over. Must return at once and not raise."""


class Configured(Protocol):
    """What carries the settings of the moment: the daemon's `App`, whose settings a reload replaces."""

    settings: Settings


@dataclass
class WebState:
    """The web side of one daemon. Route families reach it at registration, through `declare_…` and `site_of`."""

    configured: Configured
    drain: Drain = field(default_factory=Drain)
    shapes: Shapes = field(default_factory=Shapes)
    observers: list[Observer] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    log: AccessLog = field(default_factory=AccessLog)
    _policy: tuple[Settings, Policy] | None = None

    @property
    def settings(self) -> Settings:
        return self.configured.settings

    @property
    def policy(self) -> Policy:
        """Who may call, by the settings of the moment. Raises ConfigError for an address that is none."""
        settings = self.settings
        if self._policy is None or self._policy[0] is not settings:
            self._policy = settings, Policy.of(settings)
        return self._policy[1]

    def over(self, exchange: Exchange) -> None:
        """Tell log and observers of an exchange that has ended: now, or after `total_ns`."""
        exchange.total_ns = exchange.total_ns or time.monotonic_ns() - exchange.started_ns
        self.log(exchange)
        exchange.over = True
        for observer in self.observers:
            observer(exchange)

    def is_upload(self, path: str) -> bool:
        """Whether bodies sent to this path may be of any size."""
        return any(path.startswith(prefix) for prefix in self.uploads)


def state_of(app: Quart) -> WebState:
    """The site of a web application."""
    site: WebState = app.extensions["ollmlx"]
    return site


def declare_upload(blueprint: Blueprint, prefix: str) -> None:
    """Let bodies sent to paths with this prefix be of any size; their routes read them with `upload()`."""

    def add(state: Any) -> None:
        state_of(state.app).uploads.append(prefix)

    blueprint.record(add)


def declare_work(blueprint: Blueprint, *paths: str) -> None:
    """Do nothing: accepted from plugins for API 1, which called it with the paths whose requests need a runner."""


def json_answer(value: object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(orjson.dumps(value), status=status, content_type="application/json")
