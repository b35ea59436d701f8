"""The trials of a self-test, and how they are run: one after the other, within a time limit, with progress.

A trial returns a finding, or None if the guarantee holds or cannot be tested here.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ollmlx.doctor.check import found, noted
from ollmlx.doctor.report import CheckResult, Report
from ollmlx.doctor.selftest.senses import heard, seen, spoken, transcribed
from ollmlx.doctor.selftest.subject import (
    ONE_AT_A_TIME,
    SHOWN,
    Completion,
    RequestFailed,
    Subject,
    difference,
    wrong_answer,
)
from ollmlx.errors import Unsupported
from ollmlx.errors.findings import CODES, Finding, Severity
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
    "properties": {"answer": {"enum": ["yes", "no"]}, "number": {"enum": [1, 2, 3]}, "sure": {"type": "boolean"}},
    "required": ["answer", "number", "sure"],
    "additionalProperties": False,
}
MOST_STREAMS = 4
SLOT_SECONDS = 20.0
GROUP = "model"
PATIENCE = 110.0
"""Seconds for the whole self-test; trials that have not ended by then are reported as not done."""
WITHOUT_CACHE = "OLLMLX_MEMORY__PROMPT_CACHE=0 ollmlx serve"

Progress = Callable[[str, bool, float], None]
"""Called after each trial with its guarantee, whether it holds, and the seconds of the trial."""


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


async def loaded(subject: Subject, state: TrialState) -> Finding | None:
    """Load the model, and note what its engine says about itself: what it promises differs from engine to engine."""
    await subject.load()
    runner = await subject.runner() or {}
    if not (notes := runner.get("notes")):
        return None
    return noted("RUN010", f"{subject.name.short} runs on {runner.get('backend')}: {'; '.join(map(str, notes))}")


async def sensible(subject: Subject, state: TrialState) -> Finding | None:
    """Continue different texts. Weights that are damaged repeat one token after every one of them."""
    answers = [await subject.complete(unique(beginning), TOKENS) for beginning in BEGINNINGS]
    repeated_tokens = [one.tokens[0].text for one in answers if len(one.tokens) > 3 and len(set(_texts(one))) == 1]
    if len(repeated_tokens) < len(answers):
        return None
    shown = f"{answers[0].text[:SHOWN]!r}, then {answers[1].text[:SHOWN]!r}"
    problem = "answers every text with one token, again and again: its weights are damaged"
    return wrong_answer(subject, problem, shown, "ollmlx doctor storage --deep")


def _texts(completion: Completion) -> list[str]:
    return [token.text for token in completion.tokens]


async def repeated(subject: Subject, state: TrialState) -> Finding | None:
    """Send the same greedy request three times: the first prompt is new, the second and third are cached."""
    state.story = unique(STORY)
    cold, cached, again = [await subject.complete(state.story, TOKENS) for _ in range(3)]
    state.greedy = cached
    if changed := difference(cached, again):
        return wrong_answer(subject, "gives different answers to the same greedy request", changed, ONE_AT_A_TIME)
    if changed := difference(cold, cached):
        return _stale_cache(subject, changed, cached)
    for beginning in map(unique, ("The sea was calm. " * 2, PASSAGE)):
        first = await subject.complete(beginning, TOKENS // 2)
        whole = f"{beginning}{first.text} And then"  # its beginning is in the cache; `restarted` compares the answer
        state.warm[whole] = await subject.complete(whole, TOKENS)
    return None


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
    evidence = f"{cached.cached} of {cached.prompt} tokens came from the cache; {changed}"
    return wrong_answer(subject, "gives different answers to a cached prompt and to a new one", evidence, WITHOUT_CACHE)


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
            evidence = f"{width} requests at once; {changed}"
            return wrong_answer(subject, "gives different answers alone and in a batch", evidence, ONE_AT_A_TIME)
    return None


async def seeded(subject: Subject, state: TrialState) -> Finding | None:
    """Send a request with the same seed twice."""
    prompt = unique(STORY)
    await subject.complete(prompt, 1)  # both requests then find the prompt in the cache
    options: dict[str, Any] = {"log_probabilities": False, "temperature": 1.0, "seed": 7}
    one, other = [await subject.complete(prompt, TOKENS, **options) for _ in range(2)]
    if one.text == other.text:
        return None
    evidence = f"{one.text[:60]!r}, then {other.text[:60]!r}"
    return wrong_answer(subject, "gives different answers for the same seed", evidence)


async def structured(subject: Subject, state: TrialState) -> Finding | None:
    """Ask for an answer in the form of a JSON schema."""
    answer = await subject.chat("Is the sea salty? Answer, give a number, and say if you are sure.", SCHEMA, 120)
    problem = _schema_problem(answer)
    if problem is None:
        return None
    return wrong_answer(subject, "breaks the schema of the request", f"{problem}: {answer[:120]!r}")


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
    evidence = f"stop {stop!r}: expected {expected!r}, got {answer[:120]!r}"
    return wrong_answer(subject, "ignores a stop string", evidence)


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
    problem = "keeps working on requests whose clients have disconnected"
    return wrong_answer(subject, problem, evidence, f"ollmlx stop {subject.name.short}")


async def _disconnect(subject: Subject) -> None:
    async with aclosing(subject.stream(unique(STORY), 512)) as pieces:  # type: ignore[type-var]
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
    if not reserved or size <= reserved * 1.1:
        return None
    problem = f"uses {format_size(size)}, but only {format_size(reserved)} were reserved for it"
    return wrong_answer(subject, problem, f"context: {runner.get('context_length')}", "ollmlx ps", code="RUN017")


TRIALS = (
    (repeated, "a repeated request and a cached prompt get the same answer"),
    (sensible, "different texts are continued differently"),
    (batched, "a batch gives the same answers as single requests"),
    (seen, "different pictures are answered differently, alone and together"),
    (heard, "different sounds are answered differently, alone and together"),
    (seeded, "the same seed gives the same answer"),
    (structured, "answers keep to a schema"),
    (stopped, "answers end at a stop string"),
    (cancelled, "a client that disconnects frees its slot"),
    (measured, "memory stays within its reservation"),
    (restarted, "answers are the same after a restart"),
)
"""The trials with their guarantees, in order: later ones use the results of earlier ones, the restart comes last."""
TRIALS_OF_SPEECH = {
    "transcription": ((transcribed, "a spoken sentence is written down, and silence is no text"), TRIALS[-2]),
    "speech": ((spoken, "a text is spoken"), TRIALS[-2]),
}
"""The trials of models that do not answer."""


async def self_test(subject: Subject, progress: Progress, *, patience: float = PATIENCE) -> Report:
    """Run every trial. Raises RequestFailed if the model cannot be used, Unsupported if it makes vectors or scores."""
    started = time.monotonic()
    shown = await subject.details()
    name = subject.name.short
    able = shown.get("capabilities", ("completion",))
    trials = TRIALS if "completion" in able else TRIALS_OF_SPEECH.get(able[0]) if able else None
    if trials is None:
        raise Unsupported(f"{name} generates no text, so there is nothing to compare", hint="ollmlx doctor storage")
    session = _Session(subject, progress, started + patience)
    if trials is TRIALS:
        await session.run(loaded, f"{name} can be loaded")
    undone = [guarantee for trial, guarantee in trials if not await session.run(trial, guarantee)]
    seconds = time.monotonic() - started
    if undone:
        late = found(
            "DOC002", f"the self-test of {name} was not finished within {patience:g} s",
            evidence=(f"not tested: {'; '.join(undone)}",), commands=(f"ollmlx bench {name}",), subject=name,
        )  # fmt: skip
        session.results.append(CheckResult("deadline", GROUP, "ollmlx", (late,), seconds))
    return Report(tuple(session.results), seconds)


@dataclass
class _Session:
    subject: Subject
    progress: Progress
    deadline: float
    state: TrialState = field(default_factory=TrialState)
    results: list[CheckResult] = field(default_factory=list)

    async def run(self, trial: TrialFunction, guarantee: str) -> bool:
        """Run one trial; False if the time limit ended it."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.deadline - started):
                finding = await trial(self.subject, self.state)
        except TimeoutError:
            return False
        except RequestFailed as error:
            finding = _request_failed(guarantee, self.subject, error)
        seconds = time.monotonic() - started
        self.progress(guarantee, finding is None or finding.severity is Severity.OK, seconds)
        findings = (finding,) if finding is not None else ()
        self.results.append(CheckResult(trial.__name__, GROUP, "ollmlx", findings, seconds))
        return True


def _request_failed(guarantee: str, subject: Subject, error: RequestFailed) -> Finding:
    code = error.code if error.code in CODES else "DOC002"
    assert code is not None
    return found(
        code, error.message, evidence=(f"while testing: {guarantee}",),
        commands=("ollmlx logs",), subject=subject.name.short, severity=Severity.ERROR,
    )  # fmt: skip
