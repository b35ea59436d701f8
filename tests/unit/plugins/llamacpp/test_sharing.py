"""Requests that begin alike and arrive together, over a llama.cpp that finds a beginning only in its own slot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ollmlx import closing
from ollmlx.errors import RunnerFailed

sharing = pytest.importorskip("ollmlx_llamacpp.sharing", reason="pip install 'ollmlx[llamacpp]'", exc_type=ImportError)
prompts = pytest.importorskip("ollmlx_llamacpp.prompt", exc_type=ImportError)
slots = pytest.importorskip("ollmlx_llamacpp.slots", exc_type=ImportError)

SYSTEM = tuple(range(1000, 2000))
BATCH = 100
Record = dict[str, Any]


class FakeClient:
    """llama.cpp's slots: a request computes what its slot does not hold, a batch at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: list[Sequence[int]] = [()] * 4
        self.computed = self.sent = 0
        self.saved: dict[str, Sequence[int]] = {}
        self.full = False
        self.whole = False

    async def stream(self, path: str, body: Record) -> AsyncIterator[Record]:
        self.sent += 1
        prompt, slot = tuple(body["prompt"]), body["id_slot"]
        common = sharing.common_length(prompt, self.held[slot]) if body["cache_prompt"] else 0
        if self.whole and common < len(self.held[slot]):
            common = 0  # as where layers see a window only
        cached = at = min(common, len(prompt) - 1)
        while at < len(prompt):
            yield {"prompt_progress": {"processed": at, "cache": cached, "total": len(prompt)}}
            await asyncio.sleep(0)
            self.computed += min(BATCH, len(prompt) - at)
            at = min(at + BATCH, len(prompt))
            self.held[slot] = prompt[:at]
        yield {"content": "x", "timings": {"cache_n": cached, "prompt_n": len(prompt) - cached, "prompt_ms": 1.0}}

    async def post(self, path: str, body: Record) -> None:
        slot, action = path.removeprefix("/slots/").split("?action=")
        file = self.folder / body["filename"]
        if self.full:
            raise RunnerFailed("no room")
        if action == "save":
            file.touch()
            self.saved[body["filename"]] = self.held[int(slot)]
        else:
            assert file.exists()
            self.held[int(slot)] = self.saved[body["filename"]]


class Engine:
    """Requests over one llama.cpp, each with a slot."""

    def __init__(self, client: FakeClient, *, owned: bool = True) -> None:
        self.shared = sharing.SharedPrompts(client, client.folder)
        self.slots = slots.Slots(4, owned=owned)

    async def answer(self, tokens: tuple[int, ...], owner: str = "") -> list[Record]:
        prompt = prompts.LlamaCppPrompt("/completion", {"prompt": tokens}, tokens)
        async with self.slots.take(owner, tokens) as slot, closing(self.shared.stream(prompt, slot, owner)) as records:
            found = []
            async for record in records:
                await self.slots.begin(slot, owner, tokens)
                found.append(record)
            return found

    async def together(self, *asked: tuple[int, ...], owners: Sequence[str] = ("",) * 4) -> list[list[Record]]:
        answers = (self.answer(tokens, owner) for tokens, owner in zip(asked, owners, strict=False))
        return await asyncio.wait_for(asyncio.gather(*answers), 30)


@pytest.fixture
def client(tmp_path: Path) -> FakeClient:
    return FakeClient(tmp_path)


@pytest.mark.parametrize("owned", [True, False])
async def test_parallel_requests_compute_their_beginning_once(client: FakeClient, owned: bool) -> None:
    engine = Engine(client, owned=owned)
    answers = await engine.together(*((*SYSTEM, number, number) for number in range(4)))
    assert client.computed == len(SYSTEM) + 4 * 2
    final = [records[-1]["timings"] for records in answers]
    assert [timings["cache_n"] for timings in final] == [0, 1000, 1000, 1000], "the first one has computed it"
    assert [timings["prompt_n"] for timings in final] == [1002, 2, 2, 2]
    assert list(client.folder.iterdir()) == [], "the file is gone"


@pytest.mark.parametrize("others", [0, 1])
async def test_a_request_is_sent_once_unless_others_wait_and_tells_its_progress_once(
    client: FakeClient, others: int
) -> None:
    records, *_ = await Engine(client).together((*SYSTEM, 1), *[(*SYSTEM, 2)] * others)
    states = [record["prompt_progress"] for record in records[:-1]]
    done = [state["processed"] for state in states]
    assert done == sorted(done)
    assert done[-1] >= 900
    assert {(state["total"], state["cache"]) for state in states} == {(1001, 0)}
    assert (client.computed, client.sent) == (1001 + others, 4 if others else 1)


@pytest.mark.parametrize(
    ("other", "owners"),
    [
        (SYSTEM[:200] + (5,) * 800, ("", "")),
        ((*SYSTEM[:300], *range(900)), ("", "")),
        ((7,) * 1000, ("", "")),
        ((*SYSTEM, 2), ("one", "two")),
    ],
    ids=["a-short-beginning", "less-than-half", "nothing", "another-owner"],
)
async def test_prompts_that_share_too_little_compute_for_themselves(
    client: FakeClient, other: tuple[int, ...], owners: Sequence[str]
) -> None:
    await Engine(client).together((*SYSTEM, 1), other, owners=owners)
    assert client.computed == 1001 + len(other)


async def test_a_conversation_whose_slot_holds_its_beginning_does_not_wait(client: FakeClient) -> None:
    engine = Engine(client)
    await engine.together((*SYSTEM, 1), (*SYSTEM, 2))
    before, client.full = client.computed, True
    await engine.together((*SYSTEM, 1, 5), (*SYSTEM, 2, 5))
    assert client.computed - before == 2


async def test_what_cannot_be_copied_is_computed_again(client: FakeClient) -> None:
    client.full = True
    await Engine(client).together((*SYSTEM, 1), (*SYSTEM, 2))
    assert client.computed == 2 * 1001


async def test_a_model_whose_cache_cannot_be_cut_lets_nobody_wait_again(client: FakeClient) -> None:
    client.whole = True
    engine = Engine(client)
    await engine.together((*SYSTEM, 1, 1), (*SYSTEM, 2, 2))
    assert client.computed == 2 * 1002
    await engine.together((*SYSTEM[::-1], 1, 1), (*SYSTEM[::-1], 2, 2))
    assert len(client.saved) == 1


async def test_a_first_request_that_is_cancelled_sends_the_others_on(client: FakeClient) -> None:
    engine = Engine(client)
    first = asyncio.ensure_future(engine.answer((*SYSTEM, 1)))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(engine.answer((*SYSTEM, 2)))
    for _ in range(3):
        await asyncio.sleep(0)
    first.cancel()
    assert (await asyncio.wait_for(second, 30))[-1]["content"] == "x"


async def test_one_that_waits_may_be_cancelled(client: FakeClient) -> None:
    engine = Engine(client)
    first = asyncio.ensure_future(engine.answer((*SYSTEM, 1)))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(engine.answer((*SYSTEM, 2)))
    for _ in range(3):
        await asyncio.sleep(0)
    second.cancel()
    assert (await asyncio.wait_for(first, 30))[-1]["content"] == "x"
    assert client.saved == {} or list(client.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("owned", "saves", "expected"),
    [(False, True, [0, 0, 1, 0]), (False, False, [0, 1, 2, 3]), (True, True, [0, 1, 2, 3])],
    ids=["saved-prompts-leave-slots-empty", "nothing-is-saved", "with-owners"],
)
async def test_conversations_take_turns_in_one_slot_where_prompts_are_saved(
    owned: bool, saves: bool, expected: list[int]
) -> None:
    chosen = slots.Slots(4, owned=owned, saves=saves)
    async with chosen.take("", (1,) * 10) as first:
        await chosen.begin(first, "", (1,) * 10)
    async with chosen.take("", (2,) * 10) as second, chosen.take("", (3,) * 10) as third:
        pass
    async with chosen.take("", (4,) * 10) as fourth:
        pass
    assert [slot.index for slot in (first, second, third, fourth)] == expected
