"""The routes that tell of models and change which there are: tags, show, ps, copy, delete; the greeting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Response

from ollmlx import OllmlxError, __version__
from ollmlx.web import TEXT, caller, describe, json_answer, read_model
from ollmlx.web.kit.schemas import STRING
from ollmlx_ollama_api import descriptions, schemas
from ollmlx_ollama_api.management_request import CopyBody, DeleteBody, ShowBody

if TYPE_CHECKING:
    from quart import Blueprint

    from ollmlx import Service
    from ollmlx.types import InstalledModel

OLLAMA_VERSION = "0.33.0"
"""The version of Ollama's API that is spoken: clients parse it as integers and switch features on it."""

GREETING = "Ollama is running"


def add_routes(made: Blueprint, service: Service) -> None:
    """Add them to the family's Blueprint."""
    _greeting(made)
    _reading(made, service)
    _writing(made, service)


def _greeting(made: Blueprint) -> None:
    @made.route("/", methods=["GET", "HEAD"])
    @describe("Greet: the daemon is there.", content=(TEXT,), answer=STRING)
    async def root() -> Response:
        return Response(GREETING, content_type="text/plain; charset=utf-8")

    @made.route("/api/version", methods=["GET", "HEAD"])
    @describe("The version of Ollama's API that is spoken, and ollmlx's own.", answer=schemas.VERSION)
    async def version() -> Response:
        return json_answer({"version": OLLAMA_VERSION, "ollmlx": __version__})


def _reading(made: Blueprint, service: Service) -> None:
    @made.route("/api/tags", methods=["GET", "HEAD"])
    @describe("List the installed models.", answer=schemas.MODELS, error=schemas.ERROR)
    async def tags() -> Response:
        return json_answer(descriptions.tags(await service.list()))

    @made.get("/api/ps")
    @describe("List the loaded models.", answer=schemas.MODELS, error=schemas.ERROR)
    async def ps() -> Response:
        return json_answer(descriptions.ps(service.ps()))

    @made.post("/api/show")
    @describe("Describe a model.", body=ShowBody, answer=schemas.SHOWN, error=schemas.ERROR)
    async def show() -> Response:
        body = await read_model(ShowBody)
        model = await service.show(body.model_name())
        caller(body.asked)
        tensors = await service.tensors(model) if body.verbose else None
        return json_answer(descriptions.show(model, tensors=tensors) | await _running(service, model))


async def _running(service: Service, model: InstalledModel) -> dict[str, str]:
    """ollmlx's own fields of a description: what would run the model, or why nothing does and what would help."""
    try:
        return {"backend": await service.backend(model)}
    except OllmlxError as error:
        return {"backend": "", "problem": error.message, "hint": error.hint or ""}


def _writing(made: Blueprint, service: Service) -> None:
    @made.post("/api/copy")
    @describe("Give a model a second name.", body=CopyBody, error=schemas.ERROR)
    async def copy() -> Response:
        body = await read_model(CopyBody)
        await service.copy(*body.names())
        return _empty()

    @made.delete("/api/delete")
    @describe("Remove a model.", body=DeleteBody, error=schemas.ERROR)
    async def delete() -> Response:
        body = await read_model(DeleteBody)
        await service.delete(body.deleted_name())
        return _empty()


def _empty() -> Response:
    return Response(b"", status=200)
