"""What servers under measurement are asked. Pure."""

from __future__ import annotations

import random
from typing import Any

WORDS = (
    *("river", "stone", "window", "garden", "letter", "morning", "engine", "copper", "silver", "market"),
    *("island", "doctor", "winter", "summer", "yellow", "planet", "bottle", "signal", "forest", "harbor"),
    *("mirror", "pocket", "ribbon", "saddle", "tunnel", "velvet", "wagon", "anchor", "basket", "candle"),
)


def long_text(tokens: int, seed: int) -> str:
    """A text of about so many tokens, whose first words differ for every seed: no cache has seen it."""
    draw = random.Random(seed)  # noqa: S311 - reproducible, not secret
    return " ".join(draw.choice(WORDS) for _ in range(tokens))


def reading(tokens: int, seed: int) -> list[dict[str, Any]]:
    """A question over a long text."""
    return [{"role": "user", "content": f"{long_text(tokens, seed)}\n\nWhich of these words do you like? Say why."}]


def writing(seed: int) -> list[dict[str, Any]]:
    """A short question with a long answer."""
    return [
        {"role": "user", "content": f"Write a long story about number {seed}, a {WORDS[seed % len(WORDS)]} and a king."}
    ]


def follow_up(messages: list[dict[str, Any]], answer: str) -> list[dict[str, Any]]:
    """The next turn of a conversation."""
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": "Go on, please."}]
