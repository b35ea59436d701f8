"""What is measured: time to the first token, cold and in a follow-up turn, and throughput at several streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median

import aiohttp

from ollmlx.bench.prompts import follow_up, reading, writing
from ollmlx.bench.target import Reply, Target, ask


@dataclass(frozen=True)
class Plan:
    """How much is measured. Tokens are those asked for; an answer may stop earlier, and counts as it is.

    `seed` makes the prompts: with one that was used before, a server may still have them in its caches.
    """

    streams: tuple[int, ...] = (1, 4, 8, 16)
    tokens: int = 64
    prompt_tokens: int = 600
    rounds: int = 3
    seed: int = 0


@dataclass
class Measured:
    """One server's figures, one a round: seconds, and tokens a second of all streams together."""

    target: Target
    cold: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=dict)
    prompt_tokens: int = 0
    load: float | None = None
    memory: int | None = None

    def summary(self) -> dict[str, object]:
        """Medians, as `--json` prints them."""
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


async def measure(targets: Sequence[Target], plan: Plan, told: Callable[[str], None]) -> list[Measured]:
    """Measure all targets in turns, so that a busy moment of the machine falls on all of them. Each is warmed first.

    Who begins changes from round to round.
    """
    found = [Measured(target) for target in targets]
    async with session_for_measuring() as session:
        for one in found:
            told(f"warming {one.target.label}")
            await ask(session, one.target, writing(0), 8)
        for turn in range(plan.rounds):
            order = found[:: -1 if turn % 2 else 1]
            for one in order:
                told(f"round {turn + 1} of {plan.rounds}: {one.target.label}: first token")
                await _first_token(session, one, plan, seed=plan.seed + turn + 1)
            for count in plan.streams:
                for one in order:
                    told(f"round {turn + 1} of {plan.rounds}: {one.target.label}: {count} streams")
                    replies = await at_once(session, one.target, count, plan.tokens, seed=plan.seed + 1000 * (turn + 1))
                    one.rates.setdefault(count, []).append(rate(replies))
    return found


async def _first_token(session: aiohttp.ClientSession, one: Measured, plan: Plan, seed: int) -> None:
    messages = reading(plan.prompt_tokens, seed)
    cold = await ask(session, one.target, messages, 16)
    cached = await ask(session, one.target, follow_up(messages, cold.text), 16)
    one.cold.append(cold.first_token)
    one.cached.append(cached.first_token)
    one.prompt_tokens = cold.prompt_tokens


async def at_once(session: aiohttp.ClientSession, target: Target, count: int, tokens: int, seed: int) -> list[Reply]:
    """So many streams that begin together, each with a question of its own."""
    asked = (ask(session, target, writing(seed + number), tokens) for number in range(count))
    return list(await asyncio.gather(*asked))


def rate(replies: Sequence[Reply]) -> float:
    """Tokens a second of all streams together, from the first question to the last token."""
    spent = max(reply.last for reply in replies) - min(reply.asked for reply in replies)
    return sum(reply.tokens for reply in replies) / spent


@asynccontextmanager
async def session_for_measuring() -> AsyncIterator[aiohttp.ClientSession]:
    """No proxy, no limit on connections, no time limit: a slow answer is a result."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        yield session
