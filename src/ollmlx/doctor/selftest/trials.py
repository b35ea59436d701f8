"""The promises, each tried. A trial answers a finding, or None when the promise holds or cannot be tried here."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ollmlx.doctor.check import found
from ollmlx.doctor.selftest.comparison import difference
from ollmlx.doctor.selftest.subject import Reply, Subject
from ollmlx.errors.findings import Finding
from ollmlx.text.quantities import format_size

TOKENS = 16
STORY = "The old lighthouse keeper walked down to the shore, and in the sand he found"
PASSAGE = (
    "The harbour had been quiet for years. Fishing boats lay upside down on the beach, their paint gone, and grass "
    "grew between the rails that once carried barrels to the market. Only the lamp still burned every night, because "
    "the keeper had promised his father that it would, and a promise was the one thing he had never broken. "
)
BEGINNINGS = (
    "A recipe for bread begins with",
    "The capital of France is",
    "def fibonacci(n):\n",
    "In the year 1969, two men",
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "answer": {"enum": ["yes", "no"]},
        "number": {"enum": [1, 2, 3]},
        "sure": {"type": "boolean"},
    },
    "required": ["answer", "number", "sure"],
    "additionalProperties": False,
}
MOST_STREAMS = 4
SLOT_SECONDS = 20.0
LONG_ANSWER = 512
OVER_ESTIMATE = 1.1
BUNDLE = "ollmlx doctor --bundle ollmlx-bundle.zip"


@dataclass
class Notes:
    """What trials leave for later ones."""

    story: str = ""
    greedy: Reply | None = None
    warm: dict[str, Reply] = field(default_factory=dict)


Trial = Callable[[Subject, Notes], Awaitable[Finding | None]]


def fresh(text: str) -> str:
    """A prompt that nobody has asked before: no cache can know it."""
    return f"{secrets.token_hex(4)}. {text}"


async def repeated(subject: Subject, notes: Notes) -> Finding | None:
    """The same greedy request, three times: the second and third come from the cache alike, the first is cold."""
    notes.story = fresh(STORY)
    cold, cached, again = [await subject.ask(notes.story, TOKENS) for _ in range(3)]
    notes.greedy = cached
    if told := difference(cached, again):
        title = f"{subject.name.short} answers the same greedy request differently"
        return _finding("RUN010", title, subject, told, "OLLAMA_NUM_PARALLEL=1 ollmlx serve")
    if told := difference(cold, cached):
        return _stale(subject, told, cached)
    for beginning in ("The sea was calm. " * 2, PASSAGE):
        await _converse(subject, notes, fresh(beginning))
    return None


async def _converse(subject: Subject, notes: Notes, beginning: str) -> None:
    """Two turns; the second finds the first in the cache. Kept to be compared after a new start."""
    first = await subject.ask(beginning, TOKENS // 2)
    whole = f"{beginning}{first.text} And then"
    notes.warm[whole] = await subject.ask(whole, TOKENS)


async def restarted(subject: Subject, notes: Notes) -> Finding | None:
    """What was answered over a warm cache is answered over none, or over one read from disk."""
    runner = await subject.runner()
    if runner is None or runner.get("active"):  # somebody else's answer is not to be cut
        return None
    await subject.unload()
    for prompt, warm in notes.warm.items():
        cold = await subject.ask(prompt, TOKENS)
        if told := difference(cold, warm):
            return _stale(subject, told, warm)
    return None


def _stale(subject: Subject, told: str, cached: Reply) -> Finding:
    title = f"{subject.name.short} answers a prompt it has in its cache otherwise than one it has not"
    evidence = f"{cached.cached} of {cached.prompt} tokens came from the cache; {told}"
    return _finding("RUN010", title, subject, evidence, "OLLMLX_MEMORY__PROMPT_CACHE=0 ollmlx serve")


async def batched(subject: Subject, notes: Notes) -> Finding | None:
    """Several at once, cold, and each alone afterwards."""
    runner = await subject.runner()
    width = min(int((runner or {}).get("parallel") or 1), MOST_STREAMS)
    if width < 2:
        return None
    prompts = [fresh(beginning) for beginning in BEGINNINGS[:width]]
    together = await asyncio.gather(*(subject.ask(prompt, TOKENS) for prompt in prompts))
    for prompt, mixed in zip(prompts, together, strict=True):
        if told := difference(await subject.ask(prompt, TOKENS), mixed):
            title = f"{subject.name.short} answers a request among others otherwise than alone"
            evidence = f"{width} requests at once; {told}"
            return _finding("RUN010", title, subject, evidence, "OLLAMA_NUM_PARALLEL=1 ollmlx serve")
    return None


async def seeded(subject: Subject, notes: Notes) -> Finding | None:
    """The same seed twice."""
    prompt = fresh(STORY)
    await subject.ask(prompt, 1)  # both find the prompt in the cache
    one, other = [await subject.ask(prompt, TOKENS, log_probabilities=False, temperature=1.0, seed=7) for _ in range(2)]
    if one.text == other.text:
        return None
    title = f"{subject.name.short} gives different answers for the same seed"
    return _finding("RUN010", title, subject, f"{one.text[:60]!r}, then {other.text[:60]!r}", BUNDLE)


async def structured(subject: Subject, notes: Notes) -> Finding | None:
    """An answer in the form of a schema."""
    said = await subject.chat("Is the sea salty? Answer, give a number, and say if you are sure.", SCHEMA, 120)
    problem = _breach(said)
    if problem is None:
        return None
    title = f"{subject.name.short} breaks the schema it was asked to keep"
    return _finding("RUN010", title, subject, f"{problem}: {said[:120]!r}", BUNDLE)


def _breach(said: str) -> str | None:
    try:
        value = json.loads(said)
    except ValueError:
        return "it is not JSON"
    if not isinstance(value, Mapping) or set(value) != set(SCHEMA["properties"]):
        return "other keys than asked for"
    sound = value["answer"] in ("yes", "no") and value["number"] in (1, 2, 3) and isinstance(value["sure"], bool)
    return None if sound else "a value that the schema excludes"


async def stopped(subject: Subject, notes: Notes) -> Finding | None:
    """A stop string from the middle of a known answer, over the borders of tokens."""
    text = notes.greedy.text if notes.greedy is not None else ""
    middle = len(text) // 2
    stop = text[middle : middle + 4]
    if len(stop) < 2 or not stop.strip():
        return None
    expected = text[: text.index(stop)]
    said = ""
    async with aclosing(subject.stream(notes.story, TOKENS, stop=[stop])) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            said += piece
    if said == expected:
        return None
    title = f"{subject.name.short} does not keep to a stop string"
    return _finding("RUN010", title, subject, f"stop {stop!r}: expected {expected!r}, got {said[:120]!r}", BUNDLE)


async def cancelled(subject: Subject, notes: Notes) -> Finding | None:
    """As many clients as there are slots leave in the middle; then somebody new is answered at once."""
    runner = await subject.runner() or {}
    slots = min(int(runner.get("parallel") or 1), MOST_STREAMS * 2)
    await asyncio.gather(*(_leave(subject) for _ in range(slots)))
    began = time.monotonic()
    try:
        await asyncio.wait_for(subject.ask(fresh(BEGINNINGS[0]), 2), SLOT_SECONDS)
    except TimeoutError:
        evidence = f"{slots} clients left; a new one had no answer after {SLOT_SECONDS:g} s"
    else:
        left = await _left_behind(subject, began)
        if not left:
            return None
        evidence = f"{slots} clients left; {left} of their requests are still served"
    title = f"{subject.name.short} goes on with requests whose clients have left"
    return _finding("RUN010", title, subject, evidence, f"ollmlx stop {subject.name.short}")


async def _leave(subject: Subject) -> None:
    async with aclosing(subject.stream(fresh(STORY), LONG_ANSWER)) as pieces:  # type: ignore[type-var]
        async for _ in pieces:
            return


async def _left_behind(subject: Subject, began: float) -> int:
    while True:
        active = int((await subject.runner() or {}).get("active") or 0)
        if not active or time.monotonic() - began > SLOT_SECONDS:
            return active
        await asyncio.sleep(0.1)


async def measured(subject: Subject, notes: Notes) -> Finding | None:
    """The memory of its process against what it was admitted with."""
    runner = await subject.runner() or {}
    size, reserved = int(runner.get("size") or 0), int(runner.get("reserved") or 0)
    if not reserved or size <= reserved * OVER_ESTIMATE:
        return None
    title = f"{subject.name.short} takes {format_size(size)}, it was admitted with {format_size(reserved)}"
    return _finding("RUN017", title, subject, f"context: {runner.get('context_length')}", "ollmlx ps", BUNDLE)


def _finding(code: str, title: str, subject: Subject, evidence: str, *commands: str) -> Finding:
    own = commands if BUNDLE in commands else (*commands, BUNDLE)
    return found(code, title, evidence=(evidence,), commands=own, subject=subject.name.short)


TRIALS: tuple[tuple[str, Trial], ...] = (
    ("repeated", repeated),
    ("batched", batched),
    ("seeded", seeded),
    ("structured", structured),
    ("stopped", stopped),
    ("cancelled", cancelled),
    ("measured", measured),
    ("restarted", restarted),
)
"""In this order: later ones use what earlier ones found out, and the new start comes last."""

SAYS = {
    "repeated": "repeated = first, cached = cold",
    "batched": "batched = alone",
    "seeded": "the same seed, the same answer",
    "structured": "a schema holds",
    "stopped": "a stop string holds",
    "cancelled": "who leaves frees the slot",
    "measured": "memory within its estimate",
    "restarted": "a new start answers as before",
}
"""What each trial is about, for people."""
