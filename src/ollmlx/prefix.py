"""The beginnings of prompts, which the prefix cache keeps: texts that change for nothing, and why a prefix was missed.

The service uses both for every conversation. Pure; imports only `types`.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final

from ollmlx.types import GenerateRequest, Message, Tool


@dataclass(frozen=True)
class VolatileText:
    """A text at the beginning of a system prompt that is left out, and the reason."""

    pattern: re.Pattern[str]
    reason: str


VOLATILE: Final = (
    VolatileText(
        re.compile(r"\Ax-anthropic-billing-header:[^\n]*(?:\n+|\Z)"),
        "Claude Code begins its system prompt with an account line that Anthropic's servers read and remove. It has a"
        " part that differs from start to start, so that about 18,000 tokens would be computed again each time.",
    ),
)
_FIRST_KEYS: Final = ("name", "description", "parameters")
"""The keys of a function come in this order, others after them."""


def with_stable_prefix(request: GenerateRequest) -> GenerateRequest:
    """Return the request without volatile texts, and with its tools in the order of their names."""
    messages = tuple(kept for message in request.messages if (kept := _without_volatile(message)) is not None)
    if not messages:
        messages = request.messages
    tools = tuple(sorted(map(_ordered, request.tools), key=_name))
    if messages == request.messages and list(map(list, tools)) == list(map(list, request.tools)):
        return request if tools == request.tools else request.model_copy(update={"tools": tools})
    return request.model_copy(update={"messages": messages, "tools": tools})


def _without_volatile(message: Message) -> Message | None:
    """Return the message without volatile texts, None when nothing is left of it."""
    if message.role not in ("system", "developer"):
        return message
    text = message.content
    for volatile in VOLATILE:
        text = volatile.pattern.sub("", text)
    if text == message.content:
        return message
    return message.model_copy(update={"content": text}) if text.strip() else None


def _ordered(tool: Tool) -> Tool:
    function = tool.get("function")
    if not isinstance(function, dict):
        return tool
    keys = [*(key for key in _FIRST_KEYS if key in function), *(key for key in function if key not in _FIRST_KEYS)]
    return {**tool, "function": {key: function[key] for key in keys}}


def _name(tool: Tool) -> str:
    function: Any = tool.get("function", tool)
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


KEPT: Final = 4
"""Recent conversations that are remembered for each client and model."""
MOST_CLIENTS: Final = 64
"""Clients and models whose conversations are remembered."""
LONGEST: Final = 400_000
"""Characters of a conversation that are remembered."""
WORDS: Final = 24
"""Characters that are shown on each side of a difference."""
HIT: Final = 0.9
"""The share of a prompt that must come from the cache: less is a miss."""
SIMILAR: Final = 0.5
"""The share of a part that two versions of it must have in common to be versions of the same part."""

Part = tuple[str, str]
"""A place in a conversation (`system prompt`, `tools`, `message 2`), and its text."""


@dataclass(frozen=True)
class Difference:
    """The first difference between a prompt and a recent one. `token`: its position, as near as characters tell it."""

    place: str
    token: int
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.place} changes near token {self.token}"

    @property
    def words(self) -> str:
        """The words around the difference, in ASCII. Logs do not show them."""
        return f"from {self.was!a} to {self.now!a}"


@dataclass
class RecentConversations:
    """The conversations that were answered lately, by client and model. Not shared between clients."""

    _recent: dict[tuple[str, str], deque[list[Part]]] = field(default_factory=dict)
    misses: dict[str, Difference] = field(default_factory=dict)
    """The latest miss of each model, by the key of its name."""

    def compare(self, client: str, model: str, request: GenerateRequest, cached: int, total: int) -> Difference | None:
        """Remember a conversation, and return why its prefix was missed; None for a hit and for a new conversation."""
        parts = parts_of(request)
        recent = self._recent.pop((client, model), None) or deque(maxlen=KEPT)
        self._recent[client, model] = recent  # the latest client is the last one to be forgotten
        while len(self._recent) > MOST_CLIENTS:
            del self._recent[next(iter(self._recent))]
        found = None
        for old in reversed(recent):
            if parts[: len(old)] == old:
                found = None  # it goes on
                break
            found = found or _difference(old, parts, total)
        if parts in recent:
            recent.remove(parts)
        recent.append(parts)
        if found is None or cached >= HIT * total:
            return None
        self.misses[model] = found
        return found


def parts_of(request: GenerateRequest) -> list[Part]:
    """Return the conversation in the order in which most templates write it: system prompt, tools, other messages."""
    system = [message.content for message in request.messages[:1] if message.role == "system"]
    rest = request.messages[len(system) :]
    tools = json.dumps(request.tools, ensure_ascii=False) if request.tools else ""
    parts = [("the system prompt", text) for text in system] + ([("the list of tools", tools)] if tools else [])
    for number, message in enumerate(rest, 1):
        calls = json.dumps([call.model_dump() for call in message.tool_calls]) if message.tool_calls else ""
        parts.append((f"message {number}", f"{message.role}: {message.content}{calls}"))
    return _cut(parts)


def _cut(parts: list[Part]) -> list[Part]:
    left, kept = LONGEST, []
    for place, text in parts:
        kept.append((place, text[:left]))
        left -= len(text)
        if left <= 0:
            break
    return kept


def _difference(old: list[Part], new: list[Part], total: int) -> Difference | None:
    """Return the first difference of two versions of one conversation; None for another one.

    `total`: the tokens of the new one. Another last message is no other version: it is the next question.
    """
    at, rate = 0, total / (sum(len(text) for _, text in new) or 1)
    for (place, before), (_, after) in zip(old, new[:-1], strict=False):
        if before != after:
            same = _prefix(before, after)
            ending = _prefix(before[same:][::-1], after[same:][::-1])
            if same + ending < SIMILAR * max(len(before), len(after)):
                return None
            return Difference(place, round((at + same) * rate), _around(before, same), _around(after, same))
        at += len(after)
    return None


def _prefix(one: str, other: str) -> int:
    """Return the length of the common beginning, by bisection: comparing slices is fast."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _around(text: str, at: int) -> str:
    return text[max(0, at - WORDS) : at + WORDS]
