"""Reading forms with files, `multipart/form-data`. A file goes to the disk as it arrives, so it takes no memory."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from pydantic import BaseModel
from quart import request
from quart.formparser import MultiPartParser
from werkzeug.exceptions import RequestEntityTooLarge

from ollmlx.errors import InvalidRequest
from ollmlx.storekit.files import storage_errors
from ollmlx.web.context import current
from ollmlx.web.kit.body import too_large, upload

if TYPE_CHECKING:
    from quart.wrappers import Body

FORM = "multipart/form-data"
MOST_PARTS = 64
MOST_TEXT = 1 << 20
"""Bytes of a part that is no file, and of the lines before each part."""
PIECE = 64 * 1024
"""Bytes that are parsed at once: other requests go on between two pieces."""

M = TypeVar("M", bound=BaseModel)


async def read_form(model: type[M], file: str) -> M:
    """Return a form as a wire model. Its part `file` is a path, in a folder that is removed when the request ends.

    A field `name[]` is a list, and an empty one counts as absent. Raises InvalidRequest with the first fault,
    TooLarge, BodyTimeout, StorageError.
    """
    if request.mimetype != FORM:
        raise InvalidRequest(f"this route takes {FORM}, not {request.mimetype[:80] or 'a nameless body'}")
    with storage_errors("cannot keep the uploaded file"), ExitStack() as opened:
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="ollmlx-upload-"))
        current().closers.append(partial(asyncio.to_thread, shutil.rmtree, folder, ignore_errors=True))

        def make_file(*_: object) -> IO[bytes]:
            return opened.enter_context((folder / secrets.token_hex(8)).open("xb+"))

        parser = MultiPartParser(
            max_content_length=MOST_TEXT,  # of what is held undecided, not of the form
            max_form_memory_size=MOST_TEXT,
            max_form_parts=MOST_PARTS,
            stream_factory=make_file,
        )
        boundary = request.mimetype_params.get("boundary", "").encode("ascii", "replace")
        if not boundary:
            raise InvalidRequest(f"invalid form: {FORM} needs a boundary")
        try:
            fields, files = await parser.parse(cast("Body", _pieces()), boundary, request.content_length or 0)
        except RequestEntityTooLarge:
            raise too_large() from None
        except ValueError as error:
            raise InvalidRequest(f"invalid form: {error}") from None
        if file in fields:  # a path of this machine, if a text were taken for a file
            raise InvalidRequest(f"{file}: a file is needed, with a file name, not a text")
        found: dict[str, Any] = {name: values for name, values in map(_stated, fields.lists()) if values}
        if file in files:
            found[file] = files[file].stream.name
    return model.model_validate(found)


async def _pieces() -> AsyncIterator[bytes]:
    """Yield the form in small pieces: what has arrived already may be all of it."""
    async for arrived in upload():
        for start in range(0, len(arrived), PIECE):
            await asyncio.sleep(0)
            yield arrived[start : start + PIECE]


def _stated(field: tuple[str, list[str]]) -> tuple[str, str | list[str]]:
    """Return the value of a field that is not empty, or a list for several and for `name[]`."""
    name, values = field
    stated = [value for value in values if value]
    return name, stated[0] if len(stated) == 1 and not name.endswith("[]") else stated
