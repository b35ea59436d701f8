"""Calls of freeform tools, whose one text must match a grammar.

A grammar can hold an answer only when the tool must be called. Where the model chose to call it, the text is looked at
when it is complete; one that breaks the grammar is written again, as the answer of a tool that must be called.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final

from ollmlx.helper import run_limited
from ollmlx.model.events import closing
from ollmlx.types import Admitted, Done, Event, GenerateRequest, Message, Prefill, Text, ToolCall, ToolCalled

logger = logging.getLogger(__name__)

Ask = Callable[[GenerateRequest], AsyncIterator[Event]]
CPU_SECONDS: Final = 10


async def hold_freeform(request: GenerateRequest, ask: Ask) -> AsyncIterator[Event]:
    """Yield the events of the answer that `ask` gives; every text of a freeform tool in it matches its grammar."""
    said = ""
    held: list[Event] = []
    async with closing(ask(request)) as events:
        async for event in events:
            if held or await _is_broken(event, request):
                held.append(event)
                continue
            said += event.text if isinstance(event, Text) else ""
            yield event
    generated, reason = 0, None
    for event in held:
        if isinstance(event, ToolCalled) and await _is_broken(event, request):
            logger.info("the text of %s breaks the tool's grammar and is written again, held by it", event.call.name)
            async with closing(ask(_again(request, event.call, said))) as rewritten:
                async for told in rewritten:
                    if isinstance(told, Done):
                        generated, reason = generated + told.generated_tokens, told.reason
                    elif not isinstance(told, Admitted | Prefill):
                        await _warn(told, request)
                        yield told
        elif isinstance(event, Done):
            done = {"generated_tokens": event.generated_tokens + generated, "reason": reason or event.reason}
            yield event.model_copy(update=done)
        else:
            yield event


def _again(request: GenerateRequest, call: ToolCall, said: str) -> GenerateRequest:
    """Return the request for the call alone, after what the answer has said before it."""
    before = (Message(role="assistant", content=said),) if said else ()
    changes = {"tool_choice": call.name, "messages": (*request.messages, *before), "continue_last": bool(said)}
    return request.model_copy(update=changes)


async def _warn(event: Event, request: GenerateRequest) -> None:
    if isinstance(event, ToolCalled) and await _is_broken(event, request):
        logger.warning("the engine does not hold grammars: the text of %s breaks the tool's own", event.call.name)


async def _is_broken(event: Event, request: GenerateRequest) -> bool:
    """Return whether this is a call of a freeform tool with a text that the tool's grammar does not allow."""
    if not isinstance(event, ToolCalled) or (grammar := request.grammars.get(event.call.name)) is None:
        return False
    (text,) = event.call.arguments.values() if len(event.call.arguments) == 1 else ("",)
    return not await asyncio.to_thread(run_limited, matches, grammar, str(text), what="the text", cpu=CPU_SECONDS)


def matches(grammar: str, text: str) -> bool:
    """Return whether a text matches a grammar in Lark. Call it in a helper process."""
    from llguidance import LLMatcher, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(grammar))
    data = list(text.encode())
    return bool(matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting())
