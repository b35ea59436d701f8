"""Making a conversation fit the context length, the way Ollama's chat does it: oldest turns go first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ollmlx.errors import ContextExceeded
from ollmlx.types import Message

Encode = Callable[[Sequence[Message]], list[int]]


def fit_messages(messages: Sequence[Message], encode: Encode, room: int, target: int) -> tuple[list[int], int]:
    """Token ids of the conversation, and how many tokens were left out so that they fit.

    Nothing is left out up to `room` tokens. Beyond it, the oldest turns that are not system messages go until at most
    `target` tokens remain; the last message always stays, even if it is too long alone (the caller cuts it then).
    """
    whole = encode(messages)
    if len(whole) <= room:
        return whole, 0
    low, high, best = 1, len(messages) - 1, whole
    while low <= high:
        middle = (low + high) // 2
        tokens = encode(_without(messages, middle))
        if len(tokens) <= target:
            best, high = tokens, middle - 1
        else:
            if len(tokens) < len(best) and len(best) > target:
                best = tokens
            low = middle + 1
    return best, max(0, len(whole) - len(best))


def _without(messages: Sequence[Message], count: int) -> list[Message]:
    """The conversation without its first `count` messages; system messages among them stay."""
    start = count
    # An answer or a tool's result without the question before it confuses templates.
    while start < len(messages) - 1 and messages[start].role in ("assistant", "tool"):
        start += 1
    return [m for m in messages[:start] if m.role in ("system", "developer")] + list(messages[start:])


def cut_tokens(tokens: Sequence[int], target: int, keep: int) -> list[int]:
    """At most `target` tokens: the first `keep` (at most half the target) and the last ones."""
    if len(tokens) <= target:
        return list(tokens)
    keep = max(0, min(keep, target // 2))
    return list(tokens[:keep]) + list(tokens[len(tokens) - (target - keep) :])


def target_for(context: int, wanted: int) -> int:
    """How long a prompt may stay once something must be left out: room for the answer is kept, a quarter at most."""
    reserve = min(wanted if wanted > 0 else 256, max(1, context // 4))
    return max(1, context - reserve)


def refuse(tokens: int, context: int) -> ContextExceeded:
    """The error for a prompt that may not be cut."""
    return ContextExceeded(
        f"the prompt is longer than the context length: {tokens} tokens, and {context} are available",
        hint="raise num_ctx, shorten the prompt, or allow truncation",
    )
