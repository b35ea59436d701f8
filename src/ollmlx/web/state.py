"""The state that the parts of one web application share: settings, drain, error shapes, observers."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
from quart import Blueprint, Quart, Response

from ollmlx.app import App
from ollmlx.settings import Settings
from ollmlx.web.context import RequestContext
from ollmlx.web.kit.errors import JSON, Shape, plain_shape
from ollmlx.web.logs import audit_logger, audit_request, log_request
from ollmlx.web.security import OPEN_PATHS, Policy
from ollmlx.web.server.drain import Drain

Observer = Callable[[RequestContext], None]
"""Called with each request that has ended. Must return at once and must not raise."""


@dataclass
class WebState:
    """The web side of one daemon. Route families reach it when they register, with `state_of` or `declare_…`."""

    app: App
    drain: Drain = field(default_factory=Drain)
    shapes: dict[str, Shape] = field(default_factory=dict)
    """The shape of error bodies, by prefix of the path."""
    beginners: list[Observer] = field(default_factory=list)
    """Called with each request that has passed the checks, in its task, before its route."""
    observers: list[Observer] = field(default_factory=list)
    chores: list[tuple[str, Callable[[], Awaitable[None]]]] = field(default_factory=list)
    """Tasks by name that run for as long as the daemon listens."""
    uploads: list[str] = field(default_factory=list)
    """Prefixes of the paths whose bodies may have any size."""
    public: set[str] = field(default_factory=lambda: set(OPEN_PATHS))
    """Paths that are served without an API key."""
    home: str = ""
    """The path of the web page, to which `/` sends browsers; empty without one."""
    _policy: tuple[Settings, Policy] | None = None

    @property
    def policy(self) -> Policy:
        """The security policy of the current settings. Raises ConfigError for an invalid address."""
        settings = self.app.settings
        if self._policy is None or self._policy[0] is not settings:
            self._policy = settings, Policy(settings)
        return self._policy[1]

    def finish(self, context: RequestContext) -> None:
        """Log a request that has ended, and call the observers with it."""
        context.total_ns = time.monotonic_ns() - context.started_ns
        if context.quotas is not None and context.counted:
            context.quotas.end(context.client, context.tokens)
        log_request(context)
        audit_request(context)
        if context.quotas is not None and context.quotas.is_first(context.client):
            audit_logger.info("audit: act=first use of a key client=%s", context.client)
        context.ended = True
        for observer in self.observers:
            observer(context)

    def shape_of(self, path: str) -> Shape:
        """Return the shape of error bodies on this path. The longest prefix decides."""
        prefix = max((prefix for prefix in self.shapes if path.startswith(prefix)), key=len, default="")
        return self.shapes.get(prefix, plain_shape)


def state_of(app: Quart) -> WebState:
    """Return the state of a web application."""
    state: WebState = app.extensions["ollmlx"]
    return state


def _state(setup: Any) -> WebState:
    """Return the state of the application that a Blueprint is registered in."""
    return state_of(setup.app)


def declare_upload(blueprint: Blueprint, prefix: str) -> None:
    """Accept bodies of any size on paths with this prefix; their routes read them with `upload()`."""
    blueprint.record(lambda setup: _state(setup).uploads.append(prefix))


def declare_public(blueprint: Blueprint, *paths: str) -> None:
    """Serve exactly these paths without an API key. They must tell nothing that a key protects, and change nothing."""
    blueprint.record(lambda setup: _state(setup).public.update(paths))


def declare_home(blueprint: Blueprint, path: str) -> None:
    """Send browsers that open `/` to this path. Other clients keep the greeting of `/`."""
    blueprint.record(lambda setup: setattr(_state(setup), "home", path))


def declare_work(blueprint: Blueprint, *paths: str) -> None:
    """Do nothing. Plugins for API 1 call it with the paths whose requests need a runner."""


def json_answer(value: object, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(orjson.dumps(value), status=status, content_type=JSON)
