"""Prompts that begin alike and arrive together: their common beginning is computed once, and copied.

llama.cpp finds a beginning only in the slot that it computes in. When others wait for the first of such requests, it is
cancelled and goes on as two: one for the rest of its prompt, after which its slot rests for a moment, is saved, and
loaded into the slots of those that wait, and one for the answer. A request that nobody waits for is sent once.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ollmlx import closing
from ollmlx.errors import OllmlxError
from ollmlx_llamacpp.client import Json, LlamaCppClient
from ollmlx_llamacpp.prompt import TEXT, LlamaCppPrompt
from ollmlx_llamacpp.slots import Slot, common_length

logger = logging.getLogger(__name__)

SHORTEST: Final = 256
"""Tokens of a beginning that is worth waiting for."""


@dataclass(eq=False)
class Computing:
    """A prompt that is being computed, and the slots that wait for it. They are told whether they have got it."""

    owner: str
    tokens: Sequence[int]
    waiting: list[tuple[Slot, asyncio.Future[bool]]] = field(default_factory=list)


class SharedPrompts:
    """The prompts that one llama.cpp computes. It saves slots into `folder`. Used on the event loop."""

    def __init__(self, client: LlamaCppClient, folder: Path) -> None:
        self._client = client
        self._folder = folder
        self._computing: list[Computing] = []
        self._helps = True

    async def stream(self, prompt: LlamaCppPrompt, slot: Slot, owner: str) -> AsyncIterator[Json]:
        """Yield llama.cpp's records of a request that has a slot; a beginning that another computes is copied first."""
        copied = False
        if len(prompt.tokens) - slot.held >= SHORTEST:
            if (other := self._find(prompt, slot, owner)) is None:
                async with closing(self._leading(prompt, slot, owner)) as records:
                    async for record in records:
                        yield record
                return
            copied = await _copied(other, slot)
            slot.reuse = copied or slot.reuse
        async with closing(self._client.stream(prompt.path, prompt.body | slot.fields)) as records:
            async for record in records:
                if copied and (record.get("timings") or {}).get("cache_n", SHORTEST) < SHORTEST:
                    self._helps = False  # the model's cache cannot be cut (sliding windows, recurrent layers)
                yield record

    def _find(self, prompt: LlamaCppPrompt, slot: Slot, owner: str) -> Computing | None:
        """Return a prompt that is being computed and shares more than the slot has, and at least half of its own."""
        for other in self._computing if self._helps else ():
            common = common_length(other.tokens, prompt.tokens) if other.owner == owner else 0
            if common >= max(slot.held + SHORTEST, len(other.tokens) // 2):
                return other
        return None

    async def _leading(self, prompt: LlamaCppPrompt, slot: Slot, owner: str) -> AsyncIterator[Json]:
        """Yield the records of a request for whose prompt others may wait. It is sent again when one does."""
        computing = Computing(owner, prompt.tokens)
        first: Json = {}
        self._computing.append(computing)
        try:
            async with closing(self._client.stream(prompt.path, prompt.body | slot.fields)) as records:
                async for record in records:
                    first = record.get("prompt_progress") or first
                    if computing.waiting:
                        break
                    if "prompt_progress" not in record and computing in self._computing:
                        self._computing.remove(computing)
                    yield record
                else:
                    return
            slot.reuse = True
            async with closing(self._shared(prompt, slot, computing, first)) as records:
                async for record in records:
                    yield record
        finally:
            if computing in self._computing:
                self._computing.remove(computing)
            for _, told in computing.waiting:
                if not told.done():
                    told.set_result(False)

    async def _shared(
        self, prompt: LlamaCppPrompt, slot: Slot, computing: Computing, first: Json
    ) -> AsyncIterator[Json]:
        """Compute the rest of a prompt but for its last token, copy it to those that wait, then yield the answer.

        `first`: the progress of the request so far.
        """
        cached, spent = int(first.get("cache", 0)), float(first.get("time_ms", 0))
        body = {"prompt": prompt.tokens[:-1], "n_predict": 0, "return_progress": True, **slot.fields}
        async with closing(self._client.stream(TEXT, body)) as records:
            async for record in records:
                if (progress := record.get("prompt_progress")) is not None:
                    counts = {"total": len(prompt.tokens), "cache": cached}
                    yield record | {"prompt_progress": progress | counts}
                spent += float((record.get("timings") or {}).get("prompt_ms", 0))
        self._computing.remove(computing)
        await self._copy(slot, computing)
        async with closing(self._client.stream(prompt.path, prompt.body | slot.fields)) as records:
            async for record in records:
                if "prompt_progress" not in record:
                    yield _joined(record, cached, spent)

    async def _copy(self, slot: Slot, computing: Computing) -> None:
        """Copy what a slot holds into the waiting ones. What cannot be copied is computed again."""
        name = secrets.token_hex(8)
        try:
            await self._client.post(f"/slots/{slot.index}?action=save", {"filename": name})
            for other, told in computing.waiting:
                if not told.done():
                    await self._client.post(f"/slots/{other.index}?action=restore", {"filename": name})
                if not told.done():
                    told.set_result(True)
        except OllmlxError as error:
            logger.warning("the beginning of a prompt is computed again, because it cannot be copied: %s", error)
        finally:
            (self._folder / name).unlink(missing_ok=True)


async def _copied(computing: Computing, slot: Slot) -> bool:
    """Wait for a prompt; return whether the slot has got it."""
    told = asyncio.get_running_loop().create_future()
    computing.waiting.append((slot, told))
    return bool(await told)


def _joined(record: Json, cached: int, spent: float) -> Json:
    """Return a record of the answer with the figures of its prompt, which was computed before in `spent` ms."""
    timings: dict[str, Any] | None = record.get("timings")
    if not timings:
        return record
    cached = min(cached, timings["cache_n"])
    counts = {"cache_n": cached, "prompt_n": timings["prompt_n"] + timings["cache_n"] - cached}
    return record | {"timings": timings | counts | {"prompt_ms": spent + timings["prompt_ms"]}}
