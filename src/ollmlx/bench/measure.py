"""Measures servers: time to the first token, cold and in the next turn, and throughput with several streams."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import aiohttp

from ollmlx.bench.target import Target, TimedAnswer, ask
from ollmlx.text.quantities import format_size

WORDS = (
    *("river", "stone", "window", "garden", "letter", "morning", "engine", "copper", "silver", "market"),
    *("island", "doctor", "winter", "summer", "yellow", "planet", "bottle", "signal", "forest", "harbor"),
    *("mirror", "pocket", "ribbon", "saddle", "tunnel", "velvet", "wagon", "anchor", "basket", "candle"),
)


@dataclass(frozen=True)
class MeasurementPlan:
    """The amount of measuring. `tokens` is the most that an answer may have; a shorter answer counts as it is.

    `seed` determines the prompts. A server may have the prompts of an earlier seed in its caches.
    """

    streams: tuple[int, ...] = (1, 4, 8, 16)
    tokens: int = 64
    prompt_tokens: int = 600
    rounds: int = 3
    seed: int = 0


@dataclass
class Measurement:
    """The figures of one server, one for each round: seconds, and tokens a second of all streams together."""

    target: Target
    cold: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=dict)
    prompt_tokens: int = 0
    load: float | None = None
    memory: int | None = None

    def summary(self) -> dict[str, object]:
        """Return the medians, as `--json` prints them."""
        return {
            "label": self.target.label,
            "url": self.target.url,
            "model": self.target.model,
            "load_seconds": self.load,
            "first_token_cold_seconds": round(median(self.cold), 4),
            "first_token_cached_seconds": round(median(self.cached), 4),
            "prompt_tokens": self.prompt_tokens,
            "tokens_per_second": {str(count): round(median(rates), 2) for count, rates in self.rates.items()},
            "memory_bytes": self.memory,
        }


async def measure(targets: Sequence[Target], plan: MeasurementPlan, note: Callable[[str], None]) -> list[Measurement]:
    """Measure all targets by turns, so that a busy moment of the machine affects all of them.

    Each target is warmed up first. The order is reversed from round to round. `note` is called with the progress.
    """
    measured = [Measurement(target) for target in targets]
    async with session_for_measuring() as session:
        for one in measured:
            note(f"warming up {one.target.label}")
            await ask(session, one.target, writing(0), 8)
        for turn in range(plan.rounds):
            order = measured[:: -1 if turn % 2 else 1]
            for one in order:
                note(f"round {turn + 1} of {plan.rounds}: {one.target.label}: first token")
                await _first_token(session, one, plan, seed=plan.seed + turn + 1)
            for count in plan.streams:
                for one in order:
                    note(f"round {turn + 1} of {plan.rounds}: {one.target.label}: {count} streams")
                    answers = await at_once(session, one.target, count, plan.tokens, seed=plan.seed + 1000 * (turn + 1))
                    one.rates.setdefault(count, []).append(rate(answers))
    return measured


async def _first_token(session: aiohttp.ClientSession, one: Measurement, plan: MeasurementPlan, seed: int) -> None:
    messages = reading(plan.prompt_tokens, seed)
    cold = await ask(session, one.target, messages, 16)
    cached = await ask(session, one.target, follow_up(messages, cold.text), 16)
    one.cold.append(cold.first_token)
    one.cached.append(cached.first_token)
    one.prompt_tokens = cold.prompt_tokens


async def at_once(
    session: aiohttp.ClientSession, target: Target, count: int, tokens: int, seed: int
) -> list[TimedAnswer]:
    """Send `count` different requests at the same time and return the answers."""
    requests = (ask(session, target, writing(seed + number), tokens) for number in range(count))
    return list(await asyncio.gather(*requests))


def rate(answers: Sequence[TimedAnswer]) -> float:
    """Return the tokens a second of all streams together, from the first request to the last token."""
    seconds = max(answer.last for answer in answers) - min(answer.sent for answer in answers)
    return sum(answer.tokens for answer in answers) / seconds


@asynccontextmanager
async def session_for_measuring() -> AsyncIterator[aiohttp.ClientSession]:
    """Yield an HTTP session without proxy, connection limit or time limit: a slow answer is a result, too."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        yield session


# -- prompts -----------------------------------------------------------------------------------------------------------


def long_text(tokens: int, seed: int) -> str:
    """Return a text of about `tokens` tokens. Its first words differ for every seed, so no cache has it."""
    draw = random.Random(seed)  # noqa: S311 - reproducible, not secret
    return " ".join(draw.choice(WORDS) for _ in range(tokens))


def reading(tokens: int, seed: int) -> list[dict[str, Any]]:
    """Return a question about a long text."""
    return [{"role": "user", "content": f"{long_text(tokens, seed)}\n\nWhich of these words do you like? Say why."}]


def writing(seed: int) -> list[dict[str, Any]]:
    """Return a short question with a long answer."""
    return [
        {"role": "user", "content": f"Write a long story about number {seed}, a {WORDS[seed % len(WORDS)]} and a king."}
    ]


def follow_up(messages: list[dict[str, Any]], answer: str) -> list[dict[str, Any]]:
    """Return the next turn of a conversation."""
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": "Go on, please."}]


# -- the table ---------------------------------------------------------------------------------------------------------


def rows(measured: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table, a column for each server; for two servers, also their ratio.

    The ratio says how many times better the first server is.
    """
    compared = len(measured) == 2
    header = ["", *(one.target.label for one in measured), *(["RATIO"] if compared else [])]
    lines = [
        _line("load", measured, lambda one: one.load, "{:.2f} s", less_is_better=True),
        _line("memory", measured, lambda one: one.memory, None, less_is_better=True),
        _line(
            f"first token, {measured[0].prompt_tokens} tokens, cold",
            measured,
            lambda one: median(one.cold),
            "{:.3f} s",
            less_is_better=True,
        ),
        _line("first token, next turn", measured, lambda one: median(one.cached), "{:.3f} s", less_is_better=True),
    ]
    for count in measured[0].rates:
        label = f"tokens/s, {count} stream{'s' if count > 1 else ''}"
        lines.append(_line(label, measured, _rate_at(count), "{:.1f}", less_is_better=False))
    return header, [line for line in lines if any(line[1:])]


def _rate_at(count: int) -> Callable[[Measurement], float]:
    return lambda one: median(one.rates[count])


def _line(
    label: str,
    measured: Sequence[Measurement],
    value: Callable[[Measurement], float | None],
    form: str | None,
    *,
    less_is_better: bool,
) -> list[str]:
    values = [value(one) for one in measured]
    shown = ["" if one is None else form.format(one) if form else format_size(one) for one in values]
    if len(measured) != 2:
        return [label, *shown]
    first, second = values
    if not first or not second:
        return [label, *shown, ""]
    return [label, *shown, f"{second / first if less_is_better else first / second:.2f}x"]
