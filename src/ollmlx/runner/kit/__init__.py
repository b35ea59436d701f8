"""What engines share: chat turns, truncation, tool choice, stop strings, fill-in-the-middle markers, `SerialEngine`.

Engines import these names from here. Stores may, too: the kit imports nothing of the runner's program and no engine.
"""

from __future__ import annotations

from ollmlx.runner.kit.answers import RepeatGuard, StopFilter, answer_events
from ollmlx.runner.kit.prompts import (
    INSERT_MARKERS,
    InsertMarkers,
    OldestFirst,
    chat_turn,
    context_exceeded,
    cut_tokens,
    find_insert_markers,
    fit_messages,
    fit_tokens,
    has_insert_markers,
    offered_tools,
    plain_prompt,
    template_thinking,
    tool_function,
    truncation_target,
)
from ollmlx.runner.kit.serial import SerialEngine

__all__ = [
    "INSERT_MARKERS",
    "InsertMarkers",
    "OldestFirst",
    "RepeatGuard",
    "SerialEngine",
    "StopFilter",
    "answer_events",
    "chat_turn",
    "context_exceeded",
    "cut_tokens",
    "find_insert_markers",
    "fit_messages",
    "fit_tokens",
    "has_insert_markers",
    "offered_tools",
    "plain_prompt",
    "template_thinking",
    "tool_function",
    "truncation_target",
]
