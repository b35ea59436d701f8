"""The routes that list, describe, fetch, make and remove models, and the greeting."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import orjson
from quart import Response

from ollmlx import OllmlxError, __version__, closing
from ollmlx.errors import Forbidden, InvalidRequest
from ollmlx.types import InstalledModel, PullProgress
from ollmlx.web import (
    BINARY,
    NDJSON,
    STRING,
    TEXT,
    caller,
    declare_upload,
    describe,
    json_answer,
    ndjson,
    read_model,
    upload,
)
from ollmlx_ollama_api import descriptions, schemas
from ollmlx_ollama_api.management_bodies import CopyBody, CreateBody, DeleteBody, PullBody, ShowBody

if TYPE_CHECKING:
    from quart import Blueprint

    from ollmlx import Service

OLLAMA_VERSION = "0.33.0"
"""The version of Ollama's API. Clients parse it as integers and switch features on it."""

GREETING = "Ollama is running"
BOTH = ("application/json", NDJSON)
BLOBS = "/api/blobs/"
CREATED = 201


def add_routes(made: Blueprint, service: Service) -> None:
    """Add these routes to the family's Blueprint."""
    _add_greeting(made)
    _add_descriptions(made, service)
    _add_changes(made, service)
    _add_transfers(made, service)
    _add_creation(made, service)


def _add_greeting(made: Blueprint) -> None:
    @made.route("/", methods=["GET", "HEAD"])
    @describe("Greet: the daemon is there.", content=(TEXT,), answer=STRING)
    async def root() -> Response:
        return Response(GREETING, content_type="text/plain; charset=utf-8")

    @made.route("/api/version", methods=["GET", "HEAD"])
    @describe("The version of Ollama's API that is spoken, and ollmlx's own.", answer=schemas.VERSION)
    async def version() -> Response:
        return json_answer({"version": OLLAMA_VERSION, "ollmlx": __version__})


def _add_descriptions(made: Blueprint, service: Service) -> None:
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
        return json_answer(descriptions.show(model, tensors=tensors) | await _backend_fields(service, model))


async def _backend_fields(service: Service, model: InstalledModel) -> dict[str, str]:
    """Return ollmlx's own fields of a description: the backend of the model, or the reason why no backend runs it."""
    try:
        return {"backend": await service.backend(model)}
    except OllmlxError as error:
        return {"backend": "", "problem": error.message, "hint": error.hint or ""}


def _add_changes(made: Blueprint, service: Service) -> None:
    @made.post("/api/copy")
    @describe("Give a model a second name.", body=CopyBody, error=schemas.ERROR)
    async def copy() -> Response:
        body = await read_model(CopyBody)
        await service.copy(*body.names())
        return Response(b"", status=200)

    @made.delete("/api/delete")
    @describe("Remove a model.", body=DeleteBody, error=schemas.ERROR)
    async def delete() -> Response:
        body = await read_model(DeleteBody)
        await service.delete(body.deleted_name())
        return Response(b"", status=200)


def _add_transfers(made: Blueprint, service: Service) -> None:
    @made.post("/api/pull")
    @describe("Fetch a model.", body=PullBody, answer=schemas.PROGRESS, content=BOTH, error=schemas.ERROR)
    async def pull() -> Response:
        body = await read_model(PullBody)
        name = body.model_name()
        caller(body.asked)
        return await _progress(service.pull(name, insecure=body.insecure), stream=body.stream)

    @made.post("/api/push")
    @describe("Upload a model to a hub.", body=PullBody, answer=schemas.PROGRESS, content=BOTH, error=schemas.ERROR)
    async def push() -> Response:
        body = await read_model(PullBody)
        name = body.model_name()
        caller(body.asked)
        return await _progress(service.push(name, insecure=body.insecure), stream=body.stream)


async def _progress(steps: AsyncIterator[PullProgress], *, stream: bool) -> Response:
    """Answer with a line for each step of long work, or with its last step when the client does not stream."""
    if stream:
        return await ndjson(_progress_lines(steps))
    last = PullProgress(status="success")
    async with closing(steps):
        async for step in steps:
            last = step
    return json_answer(last.model_dump(exclude_none=True))


async def _progress_lines(steps: AsyncIterator[PullProgress]) -> AsyncGenerator[bytes, None]:
    async with closing(steps):
        async for step in steps:
            yield orjson.dumps(step.model_dump(exclude_none=True)) + b"\n"


def _add_creation(made: Blueprint, service: Service) -> None:
    declare_upload(made, BLOBS)

    @made.post("/api/create")
    @describe("Make a model.", body=CreateBody, answer=schemas.PROGRESS, content=BOTH, error=schemas.ERROR)
    async def create() -> Response:
        body = await read_model(CreateBody)
        caller(body.asked)
        return await _progress(_created(service, body), stream=body.stream)

    @made.route(f"{BLOBS}<digest>", methods=["HEAD"])
    @describe("Check that a file was uploaded.", parameters={"digest": schemas.DIGEST}, error=schemas.ERROR)
    async def has_blob(digest: str) -> Response:
        service.blobs.path(digest)
        return Response(b"", status=200)

    @made.post(f"{BLOBS}<digest>")
    @describe(
        "Upload a file.",
        body=BINARY,
        success=(200, CREATED),
        parameters={"digest": schemas.DIGEST},
        error=schemas.ERROR,
    )
    async def put_blob(digest: str) -> Response:
        _refuse_uploads(service)
        new = await service.blobs.write(digest, upload())
        return Response(b"", status=CREATED if new else 200)


async def _created(service: Service, body: CreateBody) -> AsyncIterator[PullProgress]:
    """Create the model. The files of an adapter are in a folder of their own meanwhile."""
    name, base, defaults = body.model_name(), body.base(), body.defaults()
    if body.files or body.adapters:
        _refuse_uploads(service)
    files = _files(service, body.files)
    adapter = _files(service, body.adapters)
    with ExitStack() as stack:
        if adapter:
            folder = Path(stack.enter_context(_folder_of(adapter)))
            defaults = defaults.model_copy(update={"adapter": folder})
        steps = service.create(name, base=base, files=files, defaults=defaults, quantize=body.quantize or None)
        async with closing(steps):
            async for step in steps:
                yield step


def _refuse_uploads(service: Service) -> None:
    if not service.settings.security.blobs:
        raise Forbidden("this server takes no uploads", hint="set blobs = true in [security] of ollmlx.toml")


def _files(service: Service, named: dict[str, str]) -> dict[str, Path]:
    """Return the paths of uploaded files by their names in the new model. Raises InvalidRequest, NotFound."""
    for name in named:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise InvalidRequest(f"invalid file name {name[:120]!r}")
    return {name: service.blobs.path(digest) for name, digest in named.items()}


@contextmanager
def _folder_of(files: dict[str, Path]) -> Iterator[str]:
    """Make a folder, beside the uploaded files, in which they have their names. It is removed at the end."""
    beside = next(iter(files.values())).parent
    with TemporaryDirectory(prefix=".adapter-", dir=beside) as folder:
        for name, path in files.items():
            (Path(folder) / PurePosixPath(name).name).hardlink_to(path)
        yield folder
