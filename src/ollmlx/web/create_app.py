"""The web application of one daemon: every registered route family behind the gate."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError
from quart import Quart, Response, current_app, request
from werkzeug.exceptions import HTTPException

from ollmlx.errors import OllmlxError
from ollmlx.web.context import current
from ollmlx.web.kit.errors import answer, failure, failure_of_status, http_failure
from ollmlx.web.middleware import ASGI, Gate
from ollmlx.web.openapi import routes as description
from ollmlx.web.request import IncomingRequest
from ollmlx.web.state import WebState, state_of
from ollmlx.web.waits import Waits

if TYPE_CHECKING:
    from ollmlx.app import App

NOT_A_ROUTE = {404: "404 page not found", 405: "405 method not allowed"}
"""In plain text, as Ollama's router answers."""


def create_app(app: App) -> Quart:
    """Build the Quart application of a daemon. `ollmlx.web.server.serve` listens with it; tests use its test client."""
    settings = app.settings
    web = Quart("ollmlx", static_folder=None, template_folder=None)
    web.request_class = IncomingRequest
    web.config["MAX_CONTENT_LENGTH"] = settings.server.max_body
    web.config["BODY_TIMEOUT"] = _finite(settings.server.body_timeout)
    web.config["RESPONSE_TIMEOUT"] = None  # answers take as long as models do; the runner's limits hold
    web.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    web.extensions["ollmlx"] = WebState(app)
    app.service.pool.subscribe(Waits())
    web.before_request(_begin)
    web.register_error_handler(OllmlxError, _failed)
    web.register_error_handler(ValidationError, _failed)
    web.register_error_handler(HTTPException, _http_failed)
    web.register_error_handler(Exception, _failed)
    for make_blueprint in app.plugins.registry.routes.values():
        web.register_blueprint(make_blueprint(app.service))
    if settings.server.docs:
        web.register_blueprint(description.blueprint())
    web.asgi_app = Gate(cast(ASGI, web.asgi_app), state_of(web))  # type: ignore[method-assign,assignment]
    return web


async def _begin() -> None:
    exchange = current()
    exchange.task = asyncio.current_task()
    if request.url_rule is not None:
        exchange.route = request.url_rule.rule


async def _failed(error: Exception) -> Response:
    return answer(failure(error), state_of(cast(Any, current_app)).shapes.of(current().path))


async def _http_failed(error: HTTPException) -> Response:
    status = error.code or 500
    if status in NOT_A_ROUTE:
        failure_of_status(status, "not_found" if status == 404 else "invalid", NOT_A_ROUTE[status])
        response = Response(NOT_A_ROUTE[status], status=status, content_type="text/plain")
        if allowed := getattr(error, "valid_methods", None):
            response.headers["Allow"] = ", ".join(sorted(allowed))
        return response
    return answer(http_failure(error), state_of(cast(Any, current_app)).shapes.of(current().path))


def _finite(seconds: float) -> float | None:
    return None if math.isinf(seconds) else seconds
