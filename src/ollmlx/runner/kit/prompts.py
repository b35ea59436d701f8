"""From a request to a prompt: chat turns, offered tools, truncation to the context length, fill-in-the-middle markers.

Conversations are shortened as Ollama does it: the oldest turns are left out first.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ollmlx.errors import ContextExceeded, InvalidRequest
from ollmlx.types import GenerateRequest, Message, Tool, ToolCall

Token = TypeVar("Token")

LEVEL_TOKENS: Final = {"low": 4096, "medium": 16384}
"""The tokens that a thought of a level may have. Higher levels have no limit."""
ANSWER_TOKENS: Final = 256
"""Tokens kept free for the answer when a prompt is cut and the request states no `num_predict`."""


MAX_TEXT: Final = 8 << 20
"""Characters that are encoded at once: some seconds, in which no other prompt of the model is encoded."""


def bounded_text(text: str) -> str:
    """Return a text that is to be encoded. Raises InvalidRequest for one that would take too long."""
    if len(text) > MAX_TEXT:
        raise InvalidRequest(f"a prompt has at most {MAX_TEXT >> 20} MiB, and this one {len(text) >> 20}")
    return text


# -- chat templates --------------------------------------------------------------------------------------------------


def chat_turn(message: Message) -> dict[str, Any]:
    """Return a message as chat templates expect it; the arguments of tool calls are an object, images are not included.

    The role `developer` becomes `system`, which every template knows.
    """
    turn: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.content,
    }
    if message.thinking:
        turn["reasoning_content"] = message.thinking
    if message.tool_calls:
        turn["tool_calls"] = [
            {
                "type": "function",
                "id": call.id or "",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_name:
        turn["name"] = message.tool_name
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def later_systems_into_user(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return a conversation in which only the first message is the system's; later ones become part of user's turns.

    Many templates refuse a system message in the middle, where agents put their reminders.
    """
    turns: list[Message] = []
    moved = False
    for message in messages:
        system = bool(turns) and message.role in ("system", "developer")
        if system and turns[-1].role not in ("system", "developer"):
            message = Message(role="user", content=message.content)
        moved = system or (moved and message.role == "user")
        if moved and turns[-1].role == message.role:
            last = turns.pop()
            both = {"content": f"{last.content}\n\n{message.content}"}
            media = {"images": (*last.images, *message.images), "audio": (*last.audio, *message.audio)}
            message = last.model_copy(update=both | media)
        turns.append(message)
    return tuple(turns)


def template_thinking(think: bool | str | None) -> dict[str, Any]:
    """Return the variables that tell a chat template to reason or not; empty when the request does not say."""
    if think is None:
        return {}
    if isinstance(think, str):
        # gpt-oss has no level above high.
        return {"enable_thinking": True, "reasoning_effort": "high" if think == "max" else think}
    return {"enable_thinking": think}


def thinking_budget(request: GenerateRequest, *, knows_effort: bool) -> int | None:
    """Return the tokens that a thought may have, None for no limit.

    A level is a limit where the template cannot tell it to the model: `knows_effort` says whether it can.
    """
    if request.max_thinking_tokens is not None or knows_effort or not isinstance(request.think, str):
        return request.max_thinking_tokens
    return LEVEL_TOKENS.get(request.think)


def knows_effort(template: str) -> bool:
    """Return whether a chat template tells the model how much to think."""
    return "reasoning_effort" in template


def offered_tools(tools: Sequence[Tool], tool_choice: str) -> list[Tool]:
    """Return the tools that the model may call. Raises InvalidRequest when `tool_choice` names a missing tool."""
    if tool_choice in ("auto", "none", "required"):
        return [] if tool_choice == "none" else list(tools)
    found = [tool for tool in tools if tool_function(tool)["name"] == tool_choice]
    if not found:
        raise InvalidRequest(f"tool_choice names {tool_choice!r}, which is not among the tools")
    return found


def tool_function(tool: Tool) -> dict[str, Any]:
    """Return a tool's function. Raises InvalidRequest when it has none or the function has no name."""
    function = tool.get("function", tool)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidRequest("each tool needs a function with a name")
    return function


def call_schema(tools: Sequence[Tool], arguments: str) -> dict[str, Any]:
    """Return the JSON schema of one call of one of these tools. `arguments`: the key that this format uses for them."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool_function(tool)["name"]},
                arguments: tool_function(tool).get("parameters") or {"type": "object"},
            },
            "required": ["name", arguments],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def freeform_call(request: GenerateRequest, text: str) -> ToolCall:
    """Return the call of a freeform tool, named by `tool_choice`: its one parameter is the text."""
    (tool,) = offered_tools(request.tools, request.tool_choice)
    (parameter,) = tool_function(tool)["parameters"]["properties"]
    return ToolCall(name=request.tool_choice, arguments={parameter: text}, id=f"call_{secrets.token_hex(4)}")


# -- truncation ------------------------------------------------------------------------------------------------------


class OldestFirst:
    """Searches for the smallest number of oldest messages to leave out, so that at most `target` tokens remain.

    While `candidate()` returns a conversation, count its tokens and call `measured`. `best` is the longest one that
    fits, or the shortest one measured when none fits. System messages and the last message always stay.
    """

    def __init__(self, messages: Sequence[Message], target: int) -> None:
        self.best: tuple[list[Message], list[int]] | None = None
        self.fits = False
        self._messages = messages
        self._target = target
        self._low, self._high = 1, len(messages) - 1
        self._middle = 0
        self._kept: list[Message] = []

    def candidate(self) -> list[Message] | None:
        """Return the next conversation to measure; None when the search has ended."""
        if self._low > self._high:
            return None
        self._middle = (self._low + self._high) // 2
        self._kept = _without_oldest(self._messages, self._middle)
        return self._kept

    def measured(self, tokens: list[int]) -> None:
        """Take the token ids of the last candidate."""
        if len(tokens) <= self._target:
            self.best, self.fits = (self._kept, tokens), True
            self._high = self._middle - 1
            return
        if not self.fits and (self.best is None or len(tokens) < len(self.best[1])):
            self.best = (self._kept, tokens)
        self._low = self._middle + 1


def _without_oldest(messages: Sequence[Message], count: int) -> list[Message]:
    start = count
    # Chat templates refuse an answer or a tool's result that comes before any question.
    while start < len(messages) - 1 and messages[start].role in ("assistant", "tool"):
        start += 1
    return [m for m in messages[:start] if m.role in ("system", "developer")] + list(messages[start:])


def fit_messages(
    messages: Sequence[Message], encode: Callable[[Sequence[Message]], list[int]], room: int, target: int
) -> tuple[list[int], int]:
    """Return the token ids of a conversation, and how many tokens were left out so that they fit.

    A conversation of at most `room` tokens stays whole. A longer one loses its oldest turns until at most `target`
    tokens remain. The last message stays even when it is too long alone; the caller cuts it then.
    """
    whole = encode(messages)
    if len(whole) <= room:
        return whole, 0
    search = OldestFirst(messages, target)
    while (kept := search.candidate()) is not None:
        search.measured(encode(kept))
    if search.best is None or len(search.best[1]) >= len(whole):
        return whole, 0
    return search.best[1], len(whole) - len(search.best[1])


def cut_tokens(tokens: Sequence[Token], target: int, keep: int) -> list[Token]:
    """Return at most `target` tokens: the first `keep` (at most half of `target`) and the last ones."""
    if len(tokens) <= target:
        return list(tokens)
    keep = max(0, min(keep, target // 2))
    return [*tokens[:keep], *tokens[len(tokens) - (target - keep) :]]


def fit_tokens(tokens: Sequence[Token], request: GenerateRequest, context_length: int) -> tuple[Sequence[Token], int]:
    """Return the newest tokens that fit the context, and how many were dropped.

    Raises ContextExceeded when the prompt is too long and the request does not allow truncation.
    """
    over = len(tokens) - context_length
    if over <= 0:
        return tokens, 0
    if not request.truncate:
        raise context_exceeded(len(tokens), context_length)
    return tokens[over:], over


def truncation_target(context_length: int, num_predict: int) -> int:
    """Return the tokens that a prompt keeps when it must be cut: the context less room for the answer.

    The room is `num_predict` tokens, at most a quarter of the context.
    """
    reserve = min(num_predict if num_predict > 0 else ANSWER_TOKENS, max(1, context_length // 4))
    return max(1, context_length - reserve)


def context_exceeded(tokens: int, context_length: int) -> ContextExceeded:
    """Return the error for a prompt that is too long and may not be cut."""
    error = ContextExceeded(
        f"the prompt is longer than the context length: {tokens} tokens, and {context_length} are available",
        hint="raise num_ctx, shorten the prompt, or allow truncation",
    )
    error.excess = (tokens, context_length)
    return error


# -- fill in the middle ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InsertMarkers:
    """The special tokens of one fill-in-the-middle format: they stand before the prefix, the suffix and the answer.

    `middle` is empty when nothing stands before the answer. `suffix_first`: the suffix comes before the prefix.
    """

    prefix: str
    suffix: str
    middle: str
    suffix_first: bool = False


INSERT_MARKERS: Final = (
    InsertMarkers("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    InsertMarkers("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    InsertMarkers("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    InsertMarkers("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    InsertMarkers("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    InsertMarkers("▁<PRE>", "▁<SUF>", "▁<MID>"),
    InsertMarkers("<PRE>", "<SUF>", "<MID>"),
    InsertMarkers("[PREFIX]", "[SUFFIX]", "", suffix_first=True),
)
"""Every known format. Stores list the capability `insert` by this table, and engines build prompts from it."""


def find_insert_markers(has_token: Callable[[str], bool]) -> InsertMarkers | None:
    """Return the first format whose markers the vocabulary has; None when it has none of them."""
    for markers in INSERT_MARKERS:
        if all(has_token(marker) for marker in (markers.prefix, markers.suffix, markers.middle) if marker):
            return markers
    return None


def has_insert_markers(tokenizer_file: bytes) -> bool:
    """Tell whether the text of a tokenizer's JSON file names all markers of one format."""

    def named(marker: str) -> bool:
        spellings = {json.dumps(marker), json.dumps(marker, ensure_ascii=False)}
        return any(spelling.encode() in tokenizer_file for spelling in spellings)

    return find_insert_markers(named) is not None
