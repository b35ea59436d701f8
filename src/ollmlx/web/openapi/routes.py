"""`/openapi.json` and `/docs`: the daemon's routes, described."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, Response, current_app

from ollmlx import __version__
from ollmlx.web.openapi.docs_page import page
from ollmlx.web.openapi.document import describe, openapi
from ollmlx.web.state import json_answer

HTML = "text/html"


def blueprint() -> Blueprint:
    """The two routes."""
    made = Blueprint("description", __name__)

    @made.get("/openapi.json")
    @describe("This description.", answer={"type": "object"})
    async def document() -> Response:
        return json_answer(_document())

    @made.get("/docs")
    @describe("This description, for people.", answer={"type": "string"}, content=(HTML,))
    async def docs() -> Response:
        return Response(page(_document()), content_type=f"{HTML}; charset=utf-8")

    return made


def _document() -> dict[str, Any]:
    return openapi(current_app, __version__)
