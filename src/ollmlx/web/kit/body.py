"""Reading JSON request bodies: in one place, strict, and never a 500."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel
from quart import request

from ollmlx.errors import BodyTimeout, InvalidRequest
from ollmlx.web.context import current
from ollmlx.web.kit.encoding import too_large, unpacked

MAX_DEPTH = 200
"""Levels of nesting; what serialises bodies later goes 254 deep."""

MOST_VALUES = 500_000
"""Numbers, texts, arrays and so on in one body: what is parsed and checked without holding up the others."""
LONGEST_NUMBER = 1000
"""Characters of a number."""

_SURROGATE = re.compile(rb"\\u[dD][89abAB]")

M = TypeVar("M", bound=BaseModel)


async def read_json() -> dict[str, Any]:
    """The JSON object in the body, whatever the content type says. Raises what `read_body` does."""
    value = parse_json(await read_body())
    if not isinstance(value, dict):
        raise InvalidRequest(f"invalid request: a JSON object is needed, not {_kind(value)}")
    return value


async def read_model(model: type[M]) -> M:
    """The body as a wire model. Raises InvalidRequest with the first fault."""
    return model.model_validate(await read_json())


async def read_body() -> bytes:
    """The whole body, unpacked, limited in size and time. Raises InvalidRequest when there is none.

    Raises TooLarge, BodyTimeout, UnsupportedEncoding.
    """
    from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout

    try:
        body: bytes = await request.get_data(False, False, False)
    except RequestEntityTooLarge:
        raise too_large() from None
    except RequestTimeout:
        raise BodyTimeout("the request body did not arrive in time") from None
    _end_if_cancelled()
    if packed := request.headers.get("Content-Encoding"):
        body = unpacked(body, packed, request.max_content_length or len(body))
    if not body.strip():
        raise InvalidRequest("missing request body")
    return body


async def upload() -> AsyncIterator[bytes]:
    """The pieces of a body of any size as they come; the socket is read only as fast as they are taken."""
    exchange = current()
    pieces = aiter(request.body)
    while True:
        try:
            piece = await asyncio.wait_for(anext(pieces), request.body_timeout)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise BodyTimeout("the request body stopped coming") from None
        _end_if_cancelled()
        exchange.room.set()
        if piece:
            yield piece


def _end_if_cancelled() -> None:
    """Python 3.11's `wait_for` loses a cancellation that comes together with what is waited for: a client that has sent
    its request and left at once would be served to the end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def parse_json(body: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN or Infinity, no duplicate keys, no lone surrogates, bounded in what costs time. Pure.

    Raises InvalidRequest.
    """
    try:
        _check_count(body)
        if _SURROGATE.search(body):
            orjson.loads(body)  # it alone refuses half a surrogate pair
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
    """What is too large for 64 bits is a float, as in most languages: what answers can be written with it."""
    number = int(_bounded(text))
    return number if -(2**63) <= number < 2**64 else _finite(text)


def _bounded(text: str) -> str:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of more than {LONGEST_NUMBER:,} characters: {text[:40]}")
    return text


def _check_count(body: bytes) -> None:
    """Count what stands between the values, outside of texts. Escapes are dropped, so that every quote ends one."""
    if len(body) <= 2 * MOST_VALUES:  # even the shortest value takes two characters with its comma
        return
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    count = plain.count(b'"') // 2
    if count <= MOST_VALUES:
        outside = b"".join(plain.split(b'"')[::2])
        count = max(count, outside.count(b",") + outside.count(b"[") + outside.count(b"{"))
    if count > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise ValueError("nested too deeply")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _kind(value: Any) -> str:
    return {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
