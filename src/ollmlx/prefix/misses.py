"""Why a prompt was not in the prefix cache: the first difference from a recent conversation of the same client."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from ollmlx.types import GenerateRequest

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
