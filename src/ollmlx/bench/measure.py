"""Measures servers: time to the first token, cold and in the next turn, and throughput with several streams."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal, TypeVar

import aiohttp
import psutil

from ollmlx.errors import InvalidRequest, UpstreamError
from ollmlx.text.quantities import format_size

Json = dict[str, Any]
Number = TypeVar("Number", int, float)

WORDS = (
    *("river", "stone", "window", "garden", "letter", "morning", "engine", "copper", "silver", "market"),
    *("island", "doctor", "winter", "summer", "yellow", "planet", "bottle", "signal", "forest", "harbor"),
    *("mirror", "pocket", "ribbon", "saddle", "tunnel", "velvet", "wagon", "anchor", "basket", "candle"),
)


@dataclass(frozen=True)
class Target:
    """A server and a model on it. `url` has no slash at its end; for the OpenAI dialect it ends in `/v1`."""

    label: str
    url: str
    model: str
    dialect: Literal["openai", "ollama"] = "openai"
    key: str | None = None
    options: Json = field(default_factory=dict)

    def request(self, messages: list[Json], tokens: int) -> tuple[str, Json]:
        """Return the URL and the body of a streamed, greedy chat request."""
        body: Json = {"model": self.model, "messages": messages, "stream": True}
        if self.dialect == "ollama":
            options = {"temperature": 0, "num_predict": tokens, **self.options}
            return f"{self.url}/api/chat", {**body, "options": options}
        usage = {"stream_options": {"include_usage": True}}
        return f"{self.url}/chat/completions", {**body, "max_tokens": tokens, "temperature": 0, **usage}

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass(frozen=True)
class MeasurementPlan:
    """The amount of measuring. `tokens` is the most that an answer may have; a shorter answer counts as it is.

    `seed` determines the prompts. A server may have the prompts of an earlier seed in its caches. `spread`: seconds for
    each stream within which the requests of a round arrive at random moments; with 0 they arrive together.
    """

    streams: tuple[int, ...] = (1, 4, 8, 16)
    tokens: int = 64
    prompt_tokens: int = 600
    rounds: int = 3
    seed: int = 0
    spread: float = 0.0


@dataclass
class Measurement:
    """The figures of one server, one for each round: seconds, and tokens a second of all streams together.

    `last_firsts`: seconds until the last of several streams has its first token.
    """

    target: Target
    cold: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=dict)
    last_firsts: dict[int, list[float]] = field(default_factory=dict)
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
                    seed = plan.seed + 1000 * (turn + 1)
                    answers = await at_once(session, one.target, count, plan.tokens, seed, plan.spread)
                    one.rates.setdefault(count, []).append(rate(answers))
                    one.last_firsts.setdefault(count, []).append(max(answer.first_token for answer in answers))
    return measured


async def _first_token(session: aiohttp.ClientSession, one: Measurement, plan: MeasurementPlan, seed: int) -> None:
    messages = reading(plan.prompt_tokens, seed)
    cold = await ask(session, one.target, messages, 16)
    cached = await ask(session, one.target, follow_up(messages, cold.text), 16)
    one.cold.append(cold.first_token)
    one.cached.append(cached.first_token)
    one.prompt_tokens = cold.prompt_tokens


async def at_once(
    session: aiohttp.ClientSession, target: Target, count: int, tokens: int, seed: int, spread: float = 0.0
) -> list[TimedAnswer]:
    """Send `count` requests that share nothing, together or `spread` out, and return the answers."""
    moments = random.Random(seed)  # noqa: S311 - reproducible, not secret

    async def one(number: int, after: float) -> TimedAnswer:
        await asyncio.sleep(after)
        return await ask(session, target, writing(seed + number), tokens)

    requests = (one(number, moments.uniform(0, spread * count)) for number in range(count))
    return list(await asyncio.gather(*requests))


def rate(answers: Sequence[TimedAnswer]) -> float:
    """Return the tokens a second of all streams together, from the first request to the last token."""
    seconds = max(answer.last for answer in answers) - min(answer.sent for answer in answers)
    return sum(answer.tokens for answer in answers) / seconds


@asynccontextmanager
async def session_for_measuring() -> AsyncIterator[aiohttp.ClientSession]:
    """Yield an HTTP session without proxy, connection limit or time limit: a slow answer is a result, too.

    Each request has its own connection, because some servers close idle ones without notice.
    """
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session:
        yield session


@dataclass
class TimedAnswer:
    """An answer with its times on a monotonic clock, in seconds.

    `tokens`: as the server counts them, or else the pieces of text.
    """

    sent: float
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    text: str = ""

    @property
    def first_token(self) -> float:
        """Seconds from the request to the first piece of text."""
        return self.first - self.sent


async def ask(session: aiohttp.ClientSession, target: Target, messages: list[Json], tokens: int) -> TimedAnswer:
    """Send a request and record the time of each piece. Raises UpstreamError unless the answer is complete."""
    url, body = target.request(messages, tokens)
    answer, pieces = TimedAnswer(time.perf_counter()), 0
    try:
        async with session.post(url, json=body, headers=target.headers) as response:
            if response.status != 200:
                raise UpstreamError(f"{target.label} answered {response.status}: {(await response.text())[:300]}")
            async for record in _records(response):
                if piece := _piece(target, record):
                    answer.last = time.perf_counter()
                    answer.first = answer.first or answer.last
                    answer.text += piece
                    pieces += 1
                _count(answer, record)
    except aiohttp.ClientError as error:
        raise UpstreamError(f"{target.label} broke off: {error or type(error).__name__}") from error
    if not answer.first:
        raise UpstreamError(f"{target.label} sent an empty answer", hint="measure a model that can chat")
    answer.tokens = answer.tokens or pieces
    return answer


async def _records(response: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    """Yield the JSON objects of an NDJSON or SSE answer. Raises UpstreamError for an error among them."""
    async for line in response.content:
        text = line.strip().removeprefix(b"data:").strip()
        if not text.startswith(b"{"):
            continue
        record: Json = json.loads(text)
        if record.get("error"):
            raise UpstreamError(f"{response.url.host}:{response.url.port} failed: {record['error']}")
        yield record


def _piece(target: Target, record: Json) -> str:
    if target.dialect == "ollama":
        message = record.get("message") or {}
        return str(message.get("content") or message.get("thinking") or "")
    choices = record.get("choices") or [{}]
    delta = choices[0].get("delta") or {}
    return str(delta.get("content") or delta.get("reasoning") or delta.get("reasoning_content") or "")


def _count(answer: TimedAnswer, record: Json) -> None:
    usage = record.get("usage") or {}
    answer.tokens = usage.get("completion_tokens") or record.get("eval_count") or answer.tokens
    answer.prompt_tokens = usage.get("prompt_tokens") or record.get("prompt_eval_count") or answer.prompt_tokens


def resident(pid: int) -> int:
    """Return the resident memory of a process and its children, in bytes. Raises InvalidRequest if there is none.

    A page that several processes share counts once, where the system tells (Linux, processes of the same user).
    """
    try:
        process = psutil.Process(pid)
        return sum(map(_resident, [process, *process.children(recursive=True)]))
    except psutil.Error as error:
        raise InvalidRequest(f"the memory of process {pid} cannot be read: {error}") from error


def _resident(process: psutil.Process) -> int:
    try:
        shared = getattr(process.memory_full_info(), "pss", 0)
    except psutil.AccessDenied:
        shared = 0
    return int(shared or process.memory_info().rss)


def long_text(tokens: int, seed: int) -> str:
    """Return a text of about `tokens` tokens. Its first words differ for every seed, so no cache has it."""
    draw = random.Random(seed)  # noqa: S311 - reproducible, not secret
    return " ".join(draw.choice(WORDS) for _ in range(tokens))


def reading(tokens: int, seed: int) -> list[dict[str, Any]]:
    """Return a question about a long text."""
    return [{"role": "user", "content": f"{long_text(tokens, seed)}\n\nWhich of these words do you like? Say why."}]


def writing(seed: int) -> list[dict[str, Any]]:
    """Return a short question with a long answer, which begins unlike that of every other seed."""
    return [
        {"role": "user", "content": f"{long_text(16, seed)}: write a long story about all of these and number {seed}."}
    ]


def follow_up(messages: list[dict[str, Any]], answer: str) -> list[dict[str, Any]]:
    """Return the next turn of a conversation."""
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": "Go on, please."}]


def rows(measured: Sequence[Measurement]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table, a column for each server; for two servers, also their ratio.

    The ratio says how many times better the first server is.
    """
    cold = f"first token, {measured[0].prompt_tokens} tokens, cold"
    lines = [
        _line("load", [one.load for one in measured], "{:.2f} s".format),
        _line("memory", [one.memory for one in measured], format_size),
        _line(cold, [median(one.cold) for one in measured], "{:.3f} s".format),
        _line("first token, next turn", [median(one.cached) for one in measured], "{:.3f} s".format),
    ]
    for count in measured[0].rates:
        label = f"tokens/s, {count} stream{'s' if count > 1 else ''}"
        rates = [median(one.rates[count]) for one in measured]
        lines.append(_line(label, rates, "{:.1f}".format, less_is_better=False))
    header = ["", *(one.target.label for one in measured), *(["RATIO"] if len(measured) == 2 else [])]
    return header, [line for line in lines if any(line[1:])]


def _line(
    label: str, values: Sequence[Number | None], shown: Callable[[Number], str], *, less_is_better: bool = True
) -> list[str]:
    line = [label, *("" if value is None else shown(value) for value in values)]
    if len(values) == 2:
        first, second = values
        ratio = "" if not first or not second else f"{second / first if less_is_better else first / second:.2f}x"
        line.append(ratio)
    return line
