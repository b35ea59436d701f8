"""The web application of one daemon: every registered route family behind the middleware."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from quart import Quart, Response, current_app, request
from werkzeug.exceptions import HTTPException

from ollmlx.app import App
from ollmlx.supervisor.scheduling.observer import PoolObserver
from ollmlx.types import Admitted
from ollmlx.web.context import CURRENT, current
from ollmlx.web.kit.body import BodyRequest
from ollmlx.web.kit.errors import NO_ROUTE, failure, failure_headers
from ollmlx.web.middleware import ASGI, Middleware
from ollmlx.web.openapi import docs_blueprint
from ollmlx.web.state import WebState, json_answer, state_of


def create_app(app: App) -> Quart:
    """Build the Quart application of a daemon. `ollmlx.web.server.serve` listens with it; tests use its test client."""
    server = app.settings.server
    web = Quart("ollmlx", static_folder=None, template_folder=None)
    web.request_class = BodyRequest
    web.config["MAX_CONTENT_LENGTH"] = server.max_body
    web.config["BODY_TIMEOUT"] = None  # `read_json` and `upload` keep the time: Python 3.11's `wait_for`, which Quart
    web.config["BODY_SECONDS"] = server.body_timeout  # uses, loses a cancellation that comes together with its result
    web.config["RESPONSE_TIMEOUT"] = None  # the runner's limits apply instead
    web.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    web.extensions["ollmlx"] = WebState(app)
    app.service.pool.subscribe(QueueTimes())
    web.before_request(_begin)
    web.register_error_handler(Exception, _failed)
    for make_blueprint in app.plugins.registry.routes.values():
        web.register_blueprint(make_blueprint(app.service))
    if server.docs:
        web.register_blueprint(docs_blueprint())
    web.asgi_app = Middleware(cast(ASGI, web.asgi_app), state_of(web))  # type: ignore[method-assign,assignment]
    return web


class QueueTimes(PoolObserver):
    """Notes in each request's context how long it waited for its runner.

    The pool calls it in the task of the request. The first wait counts; a retry on a fresh runner changes nothing.
    """

    def on_admit(self, model: str, waited: float, loading: float) -> None:
        context = CURRENT.get()
        if context is not None and not context.ended and context.admitted is None:
            queued = max(0.0, waited - loading)
            context.admitted = Admitted(queue_ns=int(queued * 1e9), load_ns=int(loading * 1e9))


async def _begin() -> None:
    context = current()
    context.task = asyncio.current_task()
    if request.url_rule is not None:
        context.route = request.url_rule.rule


async def _failed(error: Exception) -> Response:
    found = failure(error)
    if isinstance(error, HTTPException) and found.status in NO_ROUTE:  # plain text, as from Ollama's router
        response = Response(found.message, status=found.status, content_type="text/plain")
        if allowed := getattr(error, "valid_methods", None):
            response.headers["Allow"] = ", ".join(sorted(allowed))
        return response
    response = json_answer(state_of(cast(Any, current_app)).shape_of(current().path)(found), found.status)
    for name, value in failure_headers(found):
        response.headers[name.decode()] = value.decode()
    return response
