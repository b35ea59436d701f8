"""`/api/create` and `/api/blobs`: models made over others, or from uploaded files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from quart import Response

from ollmlx import closing
from ollmlx.errors import Forbidden, InvalidRequest
from ollmlx.types import PullProgress
from ollmlx.web import BINARY, NDJSON, caller, declare_upload, describe, read_model, upload
from ollmlx_ollama_api import schemas
from ollmlx_ollama_api.management_request import CreateBody
from ollmlx_ollama_api.transfers import told

if TYPE_CHECKING:
    from quart import Blueprint

    from ollmlx import Service

BOTH = ("application/json", NDJSON)
BLOBS = "/api/blobs/"
CREATED = 201


def add_routes(made: Blueprint, service: Service) -> None:
    """Add them to the family's Blueprint."""
    declare_upload(made, BLOBS)

    @made.post("/api/create")
    @describe("Make a model.", body=CreateBody, answer=schemas.PROGRESS, content=BOTH, error=schemas.ERROR)
    async def create() -> Response:
        body = await read_model(CreateBody)
        caller(body.asked)
        return await told(_created(service, body), stream=body.stream)

    @made.route(f"{BLOBS}<digest>", methods=["HEAD"])
    @describe("Whether a file was uploaded.", parameters={"digest": schemas.DIGEST}, error=schemas.ERROR)
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
    """Create, with the adapter's files, if any, gathered in a folder of their own meanwhile."""
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
    """The uploaded files by the names they shall have. Raises InvalidRequest, NotFound."""
    for name in named:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise InvalidRequest(f"invalid file name {name[:120]!r}")
    return {name: service.blobs.path(digest) for name, digest in named.items()}


@contextmanager
def _folder_of(files: dict[str, Path]) -> Iterator[str]:
    """A folder beside the uploaded files in which they have their names; gone afterwards."""
    beside = next(iter(files.values())).parent
    with TemporaryDirectory(prefix=".adapter-", dir=beside) as folder:
        for name, path in files.items():
            (Path(folder) / PurePosixPath(name).name).hardlink_to(path)
        yield folder
