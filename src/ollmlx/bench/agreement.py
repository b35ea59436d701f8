"""Compares two backends with the same weights: the first greedy tokens of a few answers, side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp

from ollmlx.bench.measure import Target, session_for_measuring
from ollmlx.errors import UpstreamError

TOKENS = 16
PROMPTS = (
    "Count from 1 to 10.",
    "Name the days of the week.",
    "What is the opposite of hot?",
    "What colour is grass?",
    "Why is the sky blue?",
    "Who wrote Romeo and Juliet?",
    "What is the capital of France?",
    "How many legs does a spider have?",
    "Tell me a joke about a cat.",
    "Write a short story about a fox.",
)


@dataclass(frozen=True)
class GreedyAnswer:
    """The beginning of an answer.

    `gaps`: for each token, by how many nats it was more likely than the next best one; None if unknown.
    """

    prompt_tokens: int
    tokens: tuple[str, ...]
    gaps: tuple[float | None, ...]


@dataclass(frozen=True)
class SharedBeginning:
    """The `tokens` at the beginning that two answers to one prompt share, and the `length` of the longer answer.

    `gap`: the first server's gap, in nats, at the first token that differs.
    """

    prompt: str
    prompt_tokens: tuple[int, int]
    tokens: int
    length: int
    gap: float | None = None

    @property
    def same(self) -> bool:
        """True if the answers do not differ."""
        return self.tokens == self.length


async def agreement(first: Target, second: Target, note: Callable[[str], None]) -> tuple[SharedBeginning, ...]:
    """Send the same prompts to both. Returns nothing if one of them does not report its tokens."""
    found = []
    async with session_for_measuring() as session:
        for number, prompt in enumerate(PROMPTS, 1):
            note(f"same answers: {number} of {len(PROMPTS)}")
            ours, theirs = [await _beginning(session, target, prompt) for target in (first, second)]
            if not ours.tokens or not theirs.tokens:
                return ()
            found.append(compared(prompt, ours, theirs))
    return tuple(found)


def compared(prompt: str, ours: GreedyAnswer, theirs: GreedyAnswer) -> SharedBeginning:
    """Compare two answers."""
    alike = [one == other for one, other in zip(ours.tokens, theirs.tokens, strict=False)]
    shared = alike.index(False) if False in alike else len(alike)
    length = max(len(ours.tokens), len(theirs.tokens))
    gap = ours.gaps[shared] if shared < len(ours.gaps) else None
    return SharedBeginning(prompt, (ours.prompt_tokens, theirs.prompt_tokens), shared, length, gap)


def summary(found: Sequence[SharedBeginning]) -> dict[str, Any]:
    """Return the comparison as `--json` prints it."""
    return {
        "tokens": TOKENS,
        "prompts": len(found),
        "same": sum(one.same for one in found),
        "answers": [asdict(one) for one in found],
    }


def sentence(found: Sequence[SharedBeginning]) -> str:
    """Return the comparison as a sentence without a full stop."""
    same = sum(one.same for one in found)
    text = f"the first {TOKENS} greedy tokens are the same in {same} of {len(found)} answers"
    gaps = [one.gap for one in found if not one.same and one.gap is not None]
    if not gaps:
        return text
    return f"{text}; where they differ, the two best candidates are at most {max(gaps):.2f} nats apart"


async def _beginning(session: aiohttp.ClientSession, target: Target, prompt: str) -> GreedyAnswer:
    url, body = target.request([{"role": "user", "content": prompt}], TOKENS)
    body |= {"stream": False, "logprobs": True, "top_logprobs": 2}
    try:
        async with session.post(url, json=body, headers=target.headers) as response:
            text = await response.text()
            if response.status != 200:
                raise UpstreamError(f"{target.label} answered {response.status}: {text[:300]}")
            answer = json.loads(text)
    except (aiohttp.ClientError, ValueError) as error:
        raise UpstreamError(f"{target.label} broke off: {error or type(error).__name__}") from error
    entries = answer.get("logprobs") or ()
    return GreedyAnswer(
        int(answer.get("prompt_eval_count") or 0),
        tuple(entry["token"] for entry in entries),
        tuple(_gap(entry.get("top_logprobs") or ()) for entry in entries),
    )


def _gap(tops: Sequence[dict[str, Any]]) -> float | None:
    return round(tops[0]["logprob"] - tops[1]["logprob"], 4) if len(tops) > 1 else None
