"""The state that the parts of one web application share: settings, drain, error shapes, observers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from quart import Response

from ollmlx.settings import Settings
from ollmlx.web.context import RequestContext
from ollmlx.web.kit.errors import Shapes
from ollmlx.web.logs import log_request
from ollmlx.web.security import Policy
from ollmlx.web.server.drain import Drain

if TYPE_CHECKING:
    from quart import Blueprint, Quart

Observer = Callable[[RequestContext], None]
"""Called with each request that has ended. Must return at once and must not raise."""


class Configured(Protocol):
    """An object with the current settings: the daemon's `App`, whose settings a reload replaces."""

    settings: Settings


@dataclass
class WebState:
    """The web side of one daemon. Route families reach it when they register, with `state_of` or `declare_…`."""

    configured: Configured
    drain: Drain = field(default_factory=Drain)
    shapes: Shapes = field(default_factory=Shapes)
    observers: list[Observer] = field(default_factory=list)
    uploads: list[str] = field(default_factory=list)
    """Prefixes of the paths whose bodies may have any size."""
    _policy: tuple[Settings, Policy] | None = None

    @property
    def settings(self) -> Settings:
        return self.configured.settings

    @property
    def policy(self) -> Policy:
        """The security policy of the current settings. Raises ConfigError for an invalid address."""
        settings = self.settings
        if self._policy is None or self._policy[0] is not settings:
            self._policy = settings, Policy(settings)
        return self._policy[1]

    def finish(self, context: RequestContext) -> None:
        """Log a request that has ended, and call the observers with it."""
        context.total_ns = time.monotonic_ns() - context.started_ns
        log_request(context)
        context.ended = True
        for observer in self.observers:
            observer(context)

    def is_upload(self, path: str) -> bool:
        """Return True when bodies sent to this path may have any size."""
        return any(path.startswith(prefix) for prefix in self.uploads)


def state_of(app: Quart) -> WebState:
    """Return the state of a web application."""
    state: WebState = app.extensions["ollmlx"]
    return state


def declare_upload(blueprint: Blueprint, prefix: str) -> None:
    """Accept bodies of any size on paths with this prefix; their routes read them with `upload()`."""

    def add(setup: Any) -> None:
        state_of(setup.app).uploads.append(prefix)

    blueprint.record(add)


def declare_work(blueprint: Blueprint, *paths: str) -> None:
    """Do nothing. Plugins for API 1 call it with the paths whose requests need a runner."""


def json_answer(value: object, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(orjson.dumps(value), status=status, content_type="application/json")
