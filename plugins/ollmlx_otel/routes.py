"""A Blueprint without routes: it makes the web application tell the tracing of each request's begin and end."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any

from quart import Blueprint

from ollmlx.web import state_of

logger = logging.getLogger(__name__)
MISSING = "traces are asked for and not sent: pip install 'ollmlx[otel]' and restart the daemon"


def blueprint(endpoint: str) -> Blueprint:
    """Return the Blueprint. Without the packages of the extra it only logs how to install them."""
    made = Blueprint("otel", __name__)
    if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter") is None:
        logger.warning(MISSING)
        return made
    from ollmlx_otel.tracing import Tracing, exporting_provider

    tracing = Tracing(exporting_provider(endpoint))

    @made.record
    def observe(setup: Any) -> None:
        state = state_of(setup.app)
        state.beginners.append(tracing.begin)
        state.observers.append(tracing.end)

    return made
