"""Reading request bodies: limited in size and time, unpacked, and parsed as strict JSON.

Uploads have no size limit; the socket is read only as fast as the route takes their pieces.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, model_validator
from quart import current_app, request
from quart.wrappers import Body, Request
from werkzeug.exceptions import RequestEntityTooLarge

from ollmlx.errors import BodyTimeout, InvalidRequest, TooLarge, UnsupportedEncoding
from ollmlx.web.context import CURRENT, current

HIGH_WATER = 1024 * 1024
"""Bytes of an upload that are held in memory before the socket is read on."""
LARGE = 8 << 20
"""Bytes of a body that is parsed in a thread, as a compressed one is: the event loop serves others meanwhile."""
MAX_DEPTH = 200
"""Levels of nesting. The libraries that write JSON later accept 254."""
MOST_VALUES = 500_000
"""Numbers, strings, arrays and so on in one body: as many as can be parsed without delaying other requests."""
LONGEST_NUMBER = 1000
"""Characters of a number."""
GZIP = 16 + zlib.MAX_WBITS
ZSTD_WINDOW = 8 * 1024 * 1024  # bytes a decoder must be able to look back (RFC 9659)
PIECE = 512
"""Bytes that are unpacked at a time: at most to 16 MiB, when every block of zstd is a run of one byte."""

_SURROGATE = re.compile(rb"\\u[dD][89abAB]")

M = TypeVar("M", bound=BaseModel)


class ThrottledBody(Body):
    """The body of a request. That of an upload has no size limit, and reads the socket only as fast as its reader."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        context = CURRENT.get()
        self._upload = context if context is not None and context.upload else None
        super().__init__(expected_content_length, None if self._upload else max_content_length)

    def append(self, data: bytes) -> None:
        super().append(data)
        if self._must_raise is not None:
            self._data.clear()  # error and request refer to one another until the next garbage collection
        if self._upload is not None and len(self._data) > HIGH_WATER:
            self._upload.body_wanted.clear()


class BodyRequest(Request):
    """Quart's request with a `ThrottledBody`."""

    body_class = ThrottledBody


class JsonBody(BaseModel):
    """A JSON body, or a part of one: unknown fields are ignored, a null field counts as absent."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


async def read_json() -> dict[str, Any]:
    """Return the JSON object in the body, whatever its content type.

    Raises InvalidRequest when it is empty, damaged or no object, TooLarge, BodyTimeout, UnsupportedEncoding.
    """
    try:
        async with asyncio.timeout(current_app.config["BODY_SECONDS"]):
            body: bytes = await request.get_data(False, False, False)
    except RequestEntityTooLarge:
        raise too_large() from None
    except TimeoutError:
        raise BodyTimeout("the request body did not arrive in time") from None
    encoding = request.headers.get("Content-Encoding", "")
    limit = request.max_content_length or len(body)
    if encoding or len(body) > LARGE:
        value = await asyncio.to_thread(_parse, body, encoding, limit)
    else:
        value = _parse(body, encoding, limit)
    if not isinstance(value, dict):
        raise InvalidRequest(f"invalid request: a JSON object is needed, not {_kind(value)}")
    return value


def _parse(body: bytes, encoding: str, limit: int) -> Any:
    body = unpack(body, encoding, limit)
    if not body.strip():
        raise InvalidRequest("missing request body")
    return parse_json(body)


async def read_model(model: type[M]) -> M:
    """Return the body as a wire model. Raises InvalidRequest with the first fault."""
    return model.model_validate(await read_json())


async def upload() -> AsyncIterator[bytes]:
    """Yield the pieces of a body of any size as they arrive. Raises BodyTimeout when they stop arriving."""
    context = current()
    pieces = aiter(request.body)
    while True:
        try:
            async with asyncio.timeout(current_app.config["BODY_SECONDS"]):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise BodyTimeout("the request body stopped coming") from None
        context.body_wanted.set()
        if piece:
            yield piece


# -- compressed bodies ------------------------------------------------------------------------------------------------


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """Return the content of a body with this `Content-Encoding`: at most `limit` bytes. Pure.

    Raises UnsupportedEncoding, TooLarge, and InvalidRequest for a damaged body.
    """
    decoder: Any
    broken: type[Exception]
    kind = encoding.strip().lower().removeprefix("x-")
    match kind:
        case "" | "identity":
            return body
        case "gzip":
            decoder, broken = zlib.decompressobj(GZIP), zlib.error
        case "zstd":
            from zstandard import ZstdDecompressor, ZstdError  # few clients compress; importing it takes time

            decoder, broken = ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj(), ZstdError
        case _:
            raise UnsupportedEncoding(
                f"request bodies with Content-Encoding {kind[:40]!r} are not supported",
                hint="send it as it is, or with gzip or zstd",
            )
    found = bytearray()
    try:
        for start in range(0, len(body), PIECE):
            found += decoder.decompress(body[start : start + PIECE])
            if len(found) > limit:
                raise too_large()
    except broken as error:
        raise InvalidRequest(f"invalid {kind} body: {error}") from None
    if not decoder.eof or decoder.unused_data:
        raise InvalidRequest(f"invalid {kind} body: it does not end where it should")
    return bytes(found)


def too_large() -> TooLarge:
    """Return the error of a body beyond the limit."""
    return TooLarge("request body too large", hint="raise max_body in [server] of ollmlx.toml")


# -- JSON -------------------------------------------------------------------------------------------------------------


def parse_json(body: bytes) -> Any:
    """Parse strict JSON: UTF-8, no NaN or Infinity, no duplicate keys, no lone surrogates, limited in size. Pure.

    Raises InvalidRequest.
    """
    try:
        if len(body) > 2 * MOST_VALUES:  # even the shortest value takes two characters with its comma
            _check_count(body)
        if _SURROGATE.search(body):
            orjson.loads(body)  # unlike `json`, it refuses half a surrogate pair
        text = body.decode("utf-8-sig")
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_integer
        )
        if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
            _check_depth(value)
    except RecursionError:
        raise InvalidRequest("invalid JSON: nested too deeply") from None
    except UnicodeDecodeError:
        raise InvalidRequest("invalid JSON: not UTF-8") from None
    except ValueError as error:
        raise InvalidRequest(f"invalid JSON: {error}") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"duplicate key {twice[:80]!r}")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(_bounded(text))
    if math.isinf(number):
        raise ValueError(f"number out of range: {text[:40]}")
    return number


def _integer(text: str) -> int | float:
    """Return a float for a number beyond 64 bits, as most languages do: responses can be written with it."""
    number = int(_bounded(text))
    return number if -(2**63) <= number < 2**64 else _finite(text)


def _bounded(text: str) -> str:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of more than {LONGEST_NUMBER:,} characters: {text[:40]}")
    return text


def _check_count(body: bytes) -> None:
    """Raise ValueError for too many values. Counts the characters between them, outside of strings, without parsing."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # every quote that is left begins or ends a string
    count = plain.count(b'"') // 2
    if count <= MOST_VALUES:
        outside = b"".join(plain.split(b'"')[::2])
        count = max(count, outside.count(b",") + outside.count(b"[") + outside.count(b"{"))
    if count > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        parents = [item for item in level if isinstance(item, (dict, list))]
        level = [child for item in parents for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _kind(value: Any) -> str:
    return {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
