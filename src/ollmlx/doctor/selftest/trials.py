"""The trials of a self-test. Each returns a finding, or None if the guarantee holds or cannot be tested here."""

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
from ollmlx.doctor.selftest.subject import Completion, Subject, difference
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
FAILED = "RUN010"
BUNDLE = "ollmlx doctor --bundle ollmlx-bundle.zip"
ONE_AT_A_TIME = "OLLAMA_NUM_PARALLEL=1 ollmlx serve"
WITHOUT_CACHE = "OLLMLX_MEMORY__PROMPT_CACHE=0 ollmlx serve"


@dataclass
class TrialState:
    """Results that later trials use. `warm`: completions over a warm cache, by prompt."""

    story: str = ""
    greedy: Completion | None = None
    warm: dict[str, Completion] = field(default_factory=dict)


TrialFunction = Callable[[Subject, TrialState], Awaitable[Finding | None]]


def unique(text: str) -> str:
    """Return a prompt that is in no cache."""
    return f"{secrets.token_hex(4)}. {text}"


async def repeated(subject: Subject, state: TrialState) -> Finding | None:
    """Send the same greedy request three times: the first prompt is new, the second and third are cached."""
    state.story = unique(STORY)
    cold, cached, again = [await subject.complete(state.story, TOKENS) for _ in range(3)]
    state.greedy = cached
    if changed := difference(cached, again):
        title = f"{subject.name.short} gives different answers to the same greedy request"
        return _finding(FAILED, title, subject, changed, ONE_AT_A_TIME)
    if changed := difference(cold, cached):
        return _stale_cache(subject, changed, cached)
    for beginning in ("The sea was calm. " * 2, PASSAGE):
        await _two_turns(subject, state, unique(beginning))
    return None


async def _two_turns(subject: Subject, state: TrialState, beginning: str) -> None:
    """Send two turns, of which the second finds the first in the cache, and keep the answer for `restarted`."""
    first = await subject.complete(beginning, TOKENS // 2)
    whole = f"{beginning}{first.text} And then"
    state.warm[whole] = await subject.complete(whole, TOKENS)


async def restarted(subject: Subject, state: TrialState) -> Finding | None:
    """Unload the model and compare: an empty cache, or one read from disk, must give the same answers."""
    runner = await subject.runner()
    if runner is None or runner.get("active"):  # unloading would end the requests of other clients
        return None
    await subject.unload()
    for prompt, warm in state.warm.items():
        cold = await subject.complete(prompt, TOKENS)
        if changed := difference(cold, warm):
            return _stale_cache(subject, changed, warm)
    return None


def _stale_cache(subject: Subject, changed: str, cached: Completion) -> Finding:
    title = f"{subject.name.short} gives different answers to a cached prompt and to a new one"
    evidence = f"{cached.cached} of {cached.prompt} tokens came from the cache; {changed}"
    return _finding(FAILED, title, subject, evidence, WITHOUT_CACHE)


async def batched(subject: Subject, state: TrialState) -> Finding | None:
    """Send several new prompts at once, then each alone."""
    runner = await subject.runner()
    width = min(int((runner or {}).get("parallel") or 1), MOST_STREAMS)
    if width < 2:
        return None
    prompts = [unique(beginning) for beginning in BEGINNINGS[:width]]
    together = await asyncio.gather(*(subject.complete(prompt, TOKENS) for prompt in prompts))
    for prompt, mixed in zip(prompts, together, strict=True):
        if changed := difference(await subject.complete(prompt, TOKENS), mixed):
            title = f"{subject.name.short} gives different answers alone and in a batch"
            return _finding(FAILED, title, subject, f"{width} requests at once; {changed}", ONE_AT_A_TIME)
    return None


async def seeded(subject: Subject, state: TrialState) -> Finding | None:
    """Send a request with the same seed twice."""
    prompt = unique(STORY)
    await subject.complete(prompt, 1)  # both requests then find the prompt in the cache
    options: dict[str, Any] = {"log_probabilities": False, "temperature": 1.0, "seed": 7}
    one, other = [await subject.complete(prompt, TOKENS, **options) for _ in range(2)]
    if one.text == other.text:
        return None
    title = f"{subject.name.short} gives different answers for the same seed"
    return _finding(FAILED, title, subject, f"{one.text[:60]!r}, then {other.text[:60]!r}", BUNDLE)


async def structured(subject: Subject, state: TrialState) -> Finding | None:
    """Ask for an answer in the form of a JSON schema."""
    answer = await subject.chat("Is the sea salty? Answer, give a number, and say if you are sure.", SCHEMA, 120)
    problem = _schema_problem(answer)
    if problem is None:
        return None
    title = f"{subject.name.short} breaks the schema of the request"
    return _finding(FAILED, title, subject, f"{problem}: {answer[:120]!r}", BUNDLE)


def _schema_problem(answer: str) -> str | None:
    try:
        value = json.loads(answer)
    except ValueError:
        return "it is not JSON"
    if not isinstance(value, Mapping) or set(value) != set(SCHEMA["properties"]):
        return "it has other keys than the schema"
    valid = value["answer"] in ("yes", "no") and value["number"] in (1, 2, 3) and isinstance(value["sure"], bool)
    return None if valid else "it has a value that the schema excludes"


async def stopped(subject: Subject, state: TrialState) -> Finding | None:
    """Use four characters from the middle of a known answer as a stop string; it may span several tokens."""
    text = state.greedy.text if state.greedy is not None else ""
    middle = len(text) // 2
    stop = text[middle : middle + 4]
    if len(stop) < 2 or not stop.strip():
        return None
    expected = text[: text.index(stop)]
    answer = ""
    async with aclosing(subject.stream(state.story, TOKENS, stop=[stop])) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            answer += piece
    if answer == expected:
        return None
    title = f"{subject.name.short} ignores a stop string"
    return _finding(FAILED, title, subject, f"stop {stop!r}: expected {expected!r}, got {answer[:120]!r}", BUNDLE)


async def cancelled(subject: Subject, state: TrialState) -> Finding | None:
    """Disconnect as many clients as there are slots in the middle of their answers, then send a new request."""
    runner = await subject.runner() or {}
    slots = min(int(runner.get("parallel") or 1), MOST_STREAMS * 2)
    await asyncio.gather(*(_disconnect(subject) for _ in range(slots)))
    started = time.monotonic()
    try:
        await asyncio.wait_for(subject.complete(unique(BEGINNINGS[0]), 2), SLOT_SECONDS)
    except TimeoutError:
        evidence = f"{slots} clients disconnected; a new one had no answer after {SLOT_SECONDS:g} s"
    else:
        active = await _still_active(subject, started)
        if not active:
            return None
        evidence = f"{slots} clients disconnected; {active} of their requests are still served"
    title = f"{subject.name.short} keeps working on requests whose clients have disconnected"
    return _finding(FAILED, title, subject, evidence, f"ollmlx stop {subject.name.short}")


async def _disconnect(subject: Subject) -> None:
    async with aclosing(subject.stream(unique(STORY), LONG_ANSWER)) as pieces:  # type: ignore[type-var]
        async for _ in pieces:
            return


async def _still_active(subject: Subject, started: float) -> int:
    while True:
        active = int((await subject.runner() or {}).get("active") or 0)
        if not active or time.monotonic() - started > SLOT_SECONDS:
            return active
        await asyncio.sleep(0.1)


async def measured(subject: Subject, state: TrialState) -> Finding | None:
    """Compare the memory of the process with its reservation."""
    runner = await subject.runner() or {}
    size, reserved = int(runner.get("size") or 0), int(runner.get("reserved") or 0)
    if not reserved or size <= reserved * OVER_ESTIMATE:
        return None
    title = f"{subject.name.short} uses {format_size(size)}, but only {format_size(reserved)} were reserved for it"
    return _finding("RUN017", title, subject, f"context: {runner.get('context_length')}", "ollmlx ps", BUNDLE)


def _finding(code: str, title: str, subject: Subject, evidence: str, *commands: str) -> Finding:
    with_bundle = commands if BUNDLE in commands else (*commands, BUNDLE)
    return found(code, title, evidence=(evidence,), commands=with_bundle, subject=subject.name.short)


@dataclass(frozen=True)
class Trial:
    """One trial: its name, the guarantee that it tests, and the function that runs it."""

    name: str
    guarantee: str
    run: TrialFunction


TRIALS = (
    Trial("repeated", "a repeated request and a cached prompt get the same answer", repeated),
    Trial("batched", "a batch gives the same answers as single requests", batched),
    Trial("seeded", "the same seed gives the same answer", seeded),
    Trial("structured", "answers keep to a schema", structured),
    Trial("stopped", "answers end at a stop string", stopped),
    Trial("cancelled", "a client that disconnects frees its slot", cancelled),
    Trial("measured", "memory stays within its reservation", measured),
    Trial("restarted", "answers are the same after a restart", restarted),
)
"""In this order: later trials use the results of earlier ones, and the restart comes last."""
