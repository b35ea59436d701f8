"""Limits of what llama.cpp renders and compiles, in its own process: a file's template, tools, a chat's format.

llama.cpp makes a grammar of a schema, and follows all places of the grammar where the text may be. A small pattern of
repetitions in repetitions has thousands of such places, and takes seconds for each token.
"""

from __future__ import annotations

import asyncio
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psutil

from ollmlx import LimitExceeded, render_template
from ollmlx.errors import InvalidRequest, RunnerFailed
from ollmlx_llamacpp.client import Json, LlamaCppClient

RENDER_SECONDS: Final = 8.0
"""Time in which llama.cpp renders a conversation for which a helper needs at most 2 s of CPU time."""
RENDER_MEMORY: Final = 512 << 20

MOST_PARTS: Final = 10_000
"""Objects and lists of a schema."""
MOST_DEPTH: Final = 100
MOST_OPTIONAL: Final = 40_000
"""The squares of the numbers of optional properties of each object, added up. 200 in one object take a second."""
MOST_PLACES: Final = 500
"""Places of a pattern where a text may be at once, as estimated. They take about half a second for each token."""
MOST_REPETITIONS: Final = 20_000
"""Characters of all patterns, each counted as often as it may be repeated."""
_DATA: Final = ("const", "default", "enum", "examples")
"""Keywords whose values are no schemas."""
_TOKEN: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(\d+)(,?)(\d*)\}|.", re.DOTALL)
_ENDLESS: Final = 1 << 30


def template_fault(template: str) -> str | None:
    """Return the limit that a template reaches with the simplest conversations, which llama.cpp renders to load it."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": "y"}}}
    user, assistant = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
    tools = [{"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}]
    conversations = ([user], [{"role": "system", "content": "x"}, user, {**assistant, "tool_calls": [call]}, user])
    for messages, offered in zip(conversations, (None, tools), strict=True):
        try:
            render_template(template, {"messages": messages, "tools": offered, "add_generation_prompt": True})
        except LimitExceeded as reached:
            return reached.message
        except InvalidRequest:  # it refuses such a conversation, as many do
            continue
    return None


@dataclass
class Rendering:
    """llama.cpp's rendering of the template of the model's file, within limits of time and memory.

    `stuck`: a rendering did not end in time. Nothing stops its thread; the process has to be replaced.
    """

    client: LlamaCppClient
    stuck: bool = False
    _running: int = 0
    _before: tuple[int, int] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    async def text(self, body: Json) -> str:
        """Return the text of a conversation. Raises InvalidRequest with the template's message, LimitExceeded."""
        try:
            async with asyncio.timeout(RENDER_SECONDS):
                with self._bounded_memory():
                    return str((await self.client.post("/apply-template", body))["prompt"])
        except TimeoutError:
            self.stuck = True
            raise LimitExceeded(f"llama.cpp needs more than {RENDER_SECONDS:.0f} s for the template") from None
        except (InvalidRequest, RunnerFailed) as failure:
            if "bad_alloc" not in failure.message:
                raise
            limit = f"{RENDER_MEMORY >> 20} MiB of memory"
            raise LimitExceeded(f"llama.cpp needs more than {limit} for the template") from None

    @contextmanager
    def _bounded_memory(self) -> Iterator[None]:
        """Let this process take at most RENDER_MEMORY more memory meanwhile. macOS has no such limit."""
        if not self._running and sys.platform == "linux":
            self._before = resource.getrlimit(resource.RLIMIT_DATA)
            limit, (soft, hard) = psutil.Process().memory_info().data + RENDER_MEMORY, self._before
            resource.setrlimit(resource.RLIMIT_DATA, (limit if soft == resource.RLIM_INFINITY else soft, hard))
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if not self._running and sys.platform == "linux":
                resource.setrlimit(resource.RLIMIT_DATA, self._before)


def check_schemas(schemas: list[Any], what: str) -> None:
    """Raise LimitExceeded, which names the limit, for schemas that would occupy llama.cpp. `what` is their name."""
    parts = optional = repetitions = places = 0
    for part in _parts(schemas, what):
        parts += 1
        if parts > MOST_PARTS:
            raise LimitExceeded(f"{what}: a schema has at most {MOST_PARTS:,} parts")
        if not isinstance(part, dict):
            continue
        if isinstance(properties := part.get("properties"), dict):
            required = part.get("required")
            named = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
            optional += len(properties.keys() - named) ** 2
        if isinstance(pattern := part.get("pattern"), str):
            measured = _measured(pattern, what)
            repetitions += measured.size
            places += measured.places
    if optional > MOST_OPTIONAL:
        raise LimitExceeded(f"{what}: too many optional properties, 200 in one object at most")
    if places > 4 * MOST_PLACES:
        raise LimitExceeded(f"{what}: a text may be at more than {4 * MOST_PLACES:,} places of its patterns")
    if repetitions > MOST_REPETITIONS:
        raise LimitExceeded(f"{what}: patterns repeat more than {MOST_REPETITIONS:,} characters")


def _parts(schemas: list[Any], what: str) -> Iterator[Any]:
    level: list[Any] = schemas
    for _ in range(MOST_DEPTH):
        yield from level
        level = [inner for part in level for inner in _inside(part) if isinstance(inner, dict | list)]
        if not level:
            return
    raise LimitExceeded(f"{what}: a schema is nested at most {MOST_DEPTH} times")


def _inside(part: Any) -> list[Any]:
    if isinstance(part, dict):
        return [value for key, value in part.items() if key not in _DATA]
    return list(part)


# -- patterns --------------------------------------------------------------------------------------------------------


@dataclass
class _Piece:
    """A part of a pattern. `size`: its characters, repeated; `places`: how many are open at once when a text comes to
    it at one time; `varies`: texts of several lengths fit; `empty`: none fits, too."""

    size: int = 1
    places: int = 1
    varies: bool = False
    empty: bool = False


@dataclass
class _Group:
    """A group that is being read: its pieces, and the alternatives before them."""

    pieces: list[_Piece] = field(default_factory=list)
    before: list[_Piece] = field(default_factory=list)

    def next_alternative(self) -> None:
        self.before.append(_sequence(self.pieces))
        self.pieces = []

    def whole(self) -> _Piece:
        if not self.before:
            return _sequence(self.pieces)
        pieces = [*self.before, _sequence(self.pieces)]
        return _Piece(
            sum(piece.size for piece in pieces),
            sum(piece.places for piece in pieces),
            varies=len({(piece.size, piece.varies) for piece in pieces}) > 1 or pieces[0].varies,
            empty=any(piece.empty for piece in pieces),
        )


def _measured(pattern: str, what: str) -> _Piece:
    """Return the whole of a pattern. Raises LimitExceeded."""
    groups = [_Group()]
    for token in _TOKEN.finditer(pattern):
        text, pieces = token[0], groups[-1].pieces
        if text == "(":
            groups.append(_Group())
        elif text == ")" and len(groups) > 1:
            group = groups.pop()
            groups[-1].pieces.append(group.whole())
        elif text == "|":
            groups[-1].next_alternative()
        elif pieces and (text in "*+?" or token[1]):
            pieces.append(_repeated(pieces.pop(), *_bounds(token)))
        else:
            pieces.append(_Piece())
    while len(groups) > 1:
        group = groups.pop()
        groups[-1].pieces.append(group.whole())
    found = groups[0].whole()
    if found.places > MOST_PLACES:
        shown = pattern if len(pattern) < 80 else f"{pattern[:80]}..."
        raise LimitExceeded(
            f"{what}: the pattern {shown!r} repeats repetitions: a text may be at more than {MOST_PLACES} of its places"
        )
    return found


def _bounds(token: re.Match[str]) -> tuple[int, int]:
    if not token[1]:
        return {"*": (0, _ENDLESS), "+": (1, _ENDLESS), "?": (0, 1)}[token[0]]
    least = int(token[1][:9])
    most = int(token[3][:9]) if token[3] else _ENDLESS if token[2] else least
    return least, most


def _repeated(piece: _Piece, least: int, most: int) -> _Piece:
    times = max(1, least if most == _ENDLESS else most)
    if piece.varies and most == _ENDLESS:
        times *= 3  # a text goes round in more than one way
    size, places = min(piece.size * times, _ENDLESS), piece.places
    if piece.varies and times > 1:
        places = size * (piece.size if piece.empty else 1)
    return _Piece(size, max(places, 1), varies=piece.varies or least != most, empty=piece.empty or least == 0)


def _sequence(pieces: list[_Piece]) -> _Piece:
    """Return pieces in a row. After one of several lengths, a text comes to the others at many times.

    Pieces that may be empty can be left out in many ways.
    """
    places, varies, empty = 0, False, 0
    for piece in pieces:
        empty = empty + 1 if piece.empty else 0
        places += (piece.size if varies else piece.places) + max(0, empty - 1)
        varies = varies or piece.varies
    return _Piece(
        sum(piece.size for piece in pieces), max(places, 1), varies=varies, empty=all(piece.empty for piece in pieces)
    )
