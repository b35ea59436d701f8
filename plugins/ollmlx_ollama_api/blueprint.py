"""The family's Blueprint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Blueprint

from ollmlx.web import declare_work
from ollmlx_ollama_api import creation, embedding, generation, models, transfers

if TYPE_CHECKING:
    from ollmlx import Service


def blueprint(service: Service) -> Blueprint:
    """The family over a service."""
    made = Blueprint("ollama", __name__)
    declare_work(made, "/api/generate", "/api/chat", "/api/embed", "/api/embeddings")
    for family in (models, generation, transfers, creation, embedding):
        family.add_routes(made, service)
    return made
