"""The greeting and the routes that list, describe, fetch, make and remove models, with the bodies of their requests."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, cast

import orjson
from pydantic import Field
from quart import Response, current_app, request

from ollmlx import UNUSED_COMMANDS, ModelName, OllmlxError, __version__, closing
from ollmlx.errors import Forbidden, InvalidRequest
from ollmlx.types import InstalledModel, ModelDefaults, PullProgress
from ollmlx.web import (
    BINARY,
    NDJSON,
    STRING,
    TEXT,
    declare_upload,
    json_answer,
    ndjson,
    permit,
    permits,
    read_model,
    state_of,
    upload,
)
from ollmlx_ollama_api import descriptions, schemas
from ollmlx_ollama_api.bodies import AsTuple, NamedBody, OllamaBody, OllamaMessage, parse_name
from ollmlx_ollama_api.options import options
from ollmlx_ollama_api.schemas import described

if TYPE_CHECKING:
    from quart import Blueprint

    from ollmlx import Service

logger = logging.getLogger(__name__)
OLLAMA_VERSION = "0.33.0"
"""The version of Ollama's API. Clients parse it as integers and switch features on it."""

BOTH = ("application/json", NDJSON)
BLOBS = "/api/blobs/"
CREATED = 201


class ShowBody(NamedBody):
    """`POST /api/show`."""

    verbose: bool = False


class PushBody(NamedBody):
    """`POST /api/push`."""

    stream: bool = True
    insecure: bool = False


class PullBody(PushBody):
    """`POST /api/pull`. `backend`: keep or import the model for this one; the fastest on this machine by default.

    `dry_run`: only tell what would be fetched, and whether it fits.
    """

    backend: str = ""
    dry_run: bool = False


class DeleteBody(NamedBody):
    """`DELETE /api/delete`."""

    def deleted_name(self) -> ModelName:
        """Parse the name. Raises InvalidRequest with the sentence of this route."""
        return parse_name(self.model, f"name {_quoted(self.model)} is invalid")


class CopyBody(OllamaBody):
    """`POST /api/copy`."""

    source: str = ""
    destination: str = ""

    def names(self) -> tuple[ModelName, ModelName]:
        source = parse_name(self.source, f"source {_quoted(self.source)} is invalid")
        return source, parse_name(self.destination, f"destination {_quoted(self.destination)} is invalid")


class CreateBody(NamedBody):
    """`POST /api/create`: `files` and `adapters` map file names to digests of uploaded blobs."""

    from_: str = Field("", alias="from")
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    template: str = ""
    license: Annotated[str | tuple[str, ...], AsTuple] = ""
    system: str = ""
    parameters: dict[str, Any] = {}
    messages: Annotated[tuple[OllamaMessage, ...], AsTuple] = ()
    quantize: str = ""
    convert: bool = False
    renderer: str = ""
    parser: str = ""
    requires: str = ""
    draft_files: dict[str, str] = {}
    stream: bool = True

    def base(self) -> ModelName | None:
        """Return the name of the base model, None when uploaded files are the base. Raises InvalidRequest."""
        if not self.from_ and not self.files:
            raise InvalidRequest("neither 'from' or 'files' was specified")
        if self.convert and (self.files or not self.from_):
            raise InvalidRequest("'convert' makes a copy of the model 'from', without 'files'")
        return parse_name(self.from_) if self.from_ else None

    def unused(self) -> list[str]:
        """Return a sentence for each stated field that changes nothing here."""
        stated = {
            "renderer": self.renderer,
            "parser": self.parser,
            "requires": self.requires,
            "draft": self.draft_files,
        }
        return [UNUSED_COMMANDS[name] for name, value in stated.items() if value]

    def defaults(self) -> ModelDefaults:
        """Return the defaults that are laid over the weights, without the adapter. Raises InvalidRequest."""
        licenses = (self.license,) if isinstance(self.license, str) else self.license
        stated = {
            "options": options(self.parameters) if self.parameters else None,
            "system": self.system,
            "template": self.template,
            "messages": tuple(message.to_vocabulary() for message in self.messages),
            "license": tuple(filter(None, licenses)),
        }
        return ModelDefaults.model_validate({name: value for name, value in stated.items() if value})


def _quoted(name: str) -> str:
    """Quote a refused name for logs and terminals: shortened, with control characters escaped."""
    return json.dumps(name[:120])


def add_routes(made: Blueprint, service: Service) -> None:
    _add_greeting(made)
    _add_descriptions(made, service)
    _add_changes(made, service)
    _add_transfers(made, service)
    _add_creation(made, service)


def _add_greeting(made: Blueprint) -> None:
    @made.route("/", methods=["GET", "HEAD"])
    @described("Greet: the daemon is there. Browsers are sent to the web page.", content=(TEXT,), answer=STRING)
    async def root() -> Response:
        home = state_of(cast(Any, current_app)).home
        if home and "text/html" in request.accept_mimetypes.values():
            return Response(b"", status=303, headers={"Location": home, "Vary": "Accept"})
        return Response("Ollama is running", content_type="text/plain; charset=utf-8", headers={"Vary": "Accept"})

    @made.route("/api/version", methods=["GET", "HEAD"])
    @described("The version of Ollama's API that is spoken, and ollmlx's own.", answer=schemas.VERSION)
    async def version() -> Response:
        return json_answer({"version": OLLAMA_VERSION, "ollmlx": __version__})


def _add_descriptions(made: Blueprint, service: Service) -> None:
    @made.route("/api/tags", methods=["GET", "HEAD"])
    @described("List the installed models.", answer=schemas.MODELS)
    async def tags() -> Response:
        return json_answer(descriptions.tags([model for model in await service.list() if permits(model.name)]))

    @made.get("/api/ps")
    @described("List the loaded models.", answer=schemas.MODELS)
    async def ps() -> Response:
        return json_answer(descriptions.ps([runner for runner in service.ps() if permits(runner.model.name)]))

    @made.post("/api/show")
    @described("Describe a model.", body=ShowBody, answer=schemas.SHOWN)
    async def show() -> Response:
        body = await read_model(ShowBody)
        name = parse_name(body.model)
        permit(body.model)
        model = await service.show(name)
        tensors = await service.tensors(model) if body.verbose else None
        return json_answer(descriptions.show(model, tensors=tensors) | await _backend_fields(service, model))


async def _backend_fields(service: Service, model: InstalledModel) -> dict[str, str]:
    """Return ollmlx's own fields of a description: the backend of the model, or the reason why no backend runs it."""
    try:
        choice = await service.engine(model)
        return {"backend": choice.backend, "why": choice.why}
    except OllmlxError as error:
        return {"backend": "", "problem": error.message, "hint": error.hint or ""}


def _add_changes(made: Blueprint, service: Service) -> None:
    @made.post("/api/copy")
    @described("Give a model a second name.", body=CopyBody)
    async def copy() -> Response:
        body = await read_model(CopyBody)
        names = body.names()
        for name in names:
            permit(str(name), "copy")
        await service.copy(*names)
        return Response(b"", status=200)

    @made.delete("/api/delete")
    @described("Remove a model.", body=DeleteBody)
    async def delete() -> Response:
        body = await read_model(DeleteBody)
        name = body.deleted_name()
        permit(body.model, "delete")
        await service.delete(name)
        return Response(b"", status=200)


def _add_transfers(made: Blueprint, service: Service) -> None:
    @made.post("/api/pull")
    @described("Fetch a model.", body=PullBody, answer=schemas.PROGRESS, content=BOTH)
    async def pull() -> Response:
        body = await read_model(PullBody)
        if body.dry_run:
            found = await service.preview(parse_name(body.model), insecure=body.insecure)
            return json_answer({"model": body.model, "candidates": [each.model_dump() for each in found]})
        pull = functools.partial(service.pull, backend=body.backend or None)
        return await _transferred(body, pull, "pull")

    @made.post("/api/push")
    @described("Upload a model to a hub.", body=PushBody, answer=schemas.PROGRESS, content=BOTH)
    async def push() -> Response:
        body = await read_model(PushBody)
        parse_name(body.model)  # a malformed request is told so first
        permit(body.model, "push")
        if not service.settings.security.push:
            raise Forbidden("this server uploads no models", hint="set push = true in [security] of ollmlx.toml")
        return await _transferred(body, service.push, "push")


async def _transferred(body: PushBody, transfer: Callable[..., AsyncIterator[PullProgress]], act: str) -> Response:
    name = parse_name(body.model)
    permit(body.model, act)
    return await _progress(transfer(name, insecure=body.insecure), stream=body.stream)


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
    @described("Make a model.", body=CreateBody, answer=schemas.PROGRESS, content=BOTH)
    async def create() -> Response:
        body = await read_model(CreateBody)
        for name in filter(None, (body.from_, body.model)):
            permit(str(parse_name(name)), "create")
        return await _progress(_created(service, body), stream=body.stream)

    @made.route(f"{BLOBS}<digest>", methods=["HEAD"])
    @described("Check that a file was uploaded.", parameters={"digest": schemas.DIGEST})
    async def has_blob(digest: str) -> Response:
        service.blobs.path(digest)
        return Response(b"", status=200)

    @made.post(f"{BLOBS}<digest>")
    @described("Upload a file.", body=BINARY, success=(200, CREATED), parameters={"digest": schemas.DIGEST})
    async def put_blob(digest: str) -> Response:
        _refuse_uploads(service)
        new = await service.blobs.write(digest, upload())
        return Response(b"", status=CREATED if new else 200)


async def _created(service: Service, body: CreateBody) -> AsyncIterator[PullProgress]:
    """Create the model. The files of an adapter are in a folder of their own meanwhile."""
    name, base, defaults = parse_name(body.model), body.base(), body.defaults()
    if body.files or body.adapters:
        _refuse_uploads(service)
    for sentence in body.unused():
        logger.warning("%s: %s", name.short, sentence)
        yield PullProgress(status=sentence)
    files = _files(service, body.files)
    adapter = _files(service, body.adapters)
    with _folder_of(adapter) if adapter else nullcontext() as folder:
        if folder is not None:
            defaults = defaults.model_copy(update={"adapter": folder})
        quantize = body.quantize or None
        steps = service.create(name, base=base, files=files, defaults=defaults, quantize=quantize, convert=body.convert)
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
def _folder_of(files: dict[str, Path]) -> Iterator[Path]:
    """Make a folder, beside the uploaded files, in which they have their names. It is removed at the end."""
    beside = next(iter(files.values())).parent
    with TemporaryDirectory(prefix=".adapter-", dir=beside) as folder:
        for name, path in files.items():
            (Path(folder) / PurePosixPath(name).name).hardlink_to(path)
        yield Path(folder)
