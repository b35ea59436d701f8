"""From a request to one of llama.cpp's: which of its routes, with which body, within the context length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ollmlx.errors import ContextExceeded, InvalidRequest, Unsupported
from ollmlx.types import GenerateRequest, Message, Options, Tool
from ollmlx_llamacpp.link import Json, Link
from ollmlx_llamacpp.template import render, usable

CHAT, TEXT, INSERT = "/v1/chat/completions", "/completion", "/infill"


@dataclass(frozen=True)
class Prompt:
    """What to ask: `path` and `body`. `tokens` are the prompt's ids, `dropped` of them were left out to make it fit."""

    path: str
    body: Json
    tokens: tuple[int, ...] = ()
    dropped: int = 0


@dataclass(frozen=True)
class PromptBuilder:
    """Makes prompts for one model. `templated`: its file brings a chat template; `sees`: it has an image encoder."""

    link: Link
    model_name: str
    context_length: int
    templated: bool
    sees: bool = False

    async def build(self, request: GenerateRequest) -> Prompt:
        """The question for llama.cpp. Raises InvalidRequest, Unsupported, ContextExceeded."""
        if any(message.images for message in request.messages) and not self.sees:
            raise Unsupported(f"{self.model_name} does not support images")
        if request.suffix:
            return self._insertion(request)
        context = min(request.options.num_ctx or self.context_length, self.context_length)
        if request.messages and not self._as_text(request):
            return await self._conversation(request, context)
        return await self._text(request, context)

    async def tokens(self, messages: Sequence[Message], request: GenerateRequest) -> list[int]:
        """Ids of a conversation through the chat template."""
        if request.template and usable(request.template):
            text = render(request.template, [turn(message) for message in messages], request, self.model_name)
        elif self.templated:
            text = (await self.link.post("/apply-template", _chat(messages, request)))["prompt"]
        else:
            text = "\n\n".join(message.content for message in messages)
        return [*request.context, *await self.encode(text, special=not request.context)]

    async def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a text; `special`: with the tokens that the model expects in front."""
        body = {"content": text, "add_special": special, "parse_special": True}
        return list((await self.link.post("/tokenize", body))["tokens"])

    def _as_text(self, request: GenerateRequest) -> bool:
        """Whether the prompt is made here: llama.cpp takes neither ids before a conversation nor a template with it."""
        return bool(request.context) or not self.templated or usable(request.template)

    async def _conversation(self, request: GenerateRequest, context: int) -> Prompt:
        messages, tokens, dropped = await self._fit(request, context)
        body = _chat(messages, request) | _sampling(request.options, _limit(request, context, len(tokens)))
        if request.top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": max(1, request.top_logprobs)}
        if request.format is not None:
            body["response_format"] = _response_format(request.format)
        return Prompt(CHAT, body | {"verbose": True, "return_progress": True}, tuple(tokens), dropped)

    async def _text(self, request: GenerateRequest, context: int) -> Prompt:
        if request.prompt is not None:
            tokens = [*request.context, *await self.encode(request.prompt, special=not request.context)]
        else:
            tokens = await self.tokens(request.messages, request)
        if not tokens:
            raise InvalidRequest("the prompt is empty")
        kept = tokens
        if len(tokens) > context - 1:
            if not request.truncate:
                raise refuse(len(tokens), context)
            kept = cut(tokens, target(context, request.options.num_predict), request.options.num_keep)
        body = _sampling(request.options, _limit(request, context, len(kept)))
        if request.top_logprobs is not None:
            body["n_probs"] = max(1, request.top_logprobs)
        if request.format is not None:
            body["json_schema"] = {"type": "object"} if request.format == "json" else request.format
        body |= {"prompt": kept, "return_tokens": True, "return_progress": True}
        return Prompt(TEXT, body, tuple(kept), len(tokens) - len(kept))

    def _insertion(self, request: GenerateRequest) -> Prompt:
        if request.prompt is None:
            raise InvalidRequest("suffix goes with a prompt, not with messages")
        body = _sampling(request.options, request.options.num_predict)
        body |= {"input_prefix": request.prompt, "input_suffix": request.suffix, "prompt": ""}
        return Prompt(INSERT, body | {"return_tokens": True, "return_progress": True})

    async def _fit(self, request: GenerateRequest, context: int) -> tuple[Sequence[Message], list[int], int]:
        """The newest turns that fit, their ids, and how many ids were left out. The last turn always stays."""
        messages = request.messages
        whole = await self.tokens(messages, request)
        if len(whole) < context:
            return messages, whole, 0
        if not request.truncate:
            raise refuse(len(whole), context)
        room = target(context, request.options.num_predict)
        low, high = 1, len(messages) - 1
        best: tuple[Sequence[Message], list[int]] | None = None
        while low <= high:
            middle = (low + high) // 2
            kept = without(messages, middle)
            tokens = await self.tokens(kept, request)
            if len(tokens) <= room:
                best, high = (kept, tokens), middle - 1
            else:
                low = middle + 1
        if best is None:
            best = await self._shorten(request, without(messages, len(messages) - 1), room)
        return *best, len(whole) - len(best[1])

    async def _shorten(
        self, request: GenerateRequest, messages: Sequence[Message], room: int
    ) -> tuple[Sequence[Message], list[int]]:
        """The last turn alone is too long: its text loses its beginning."""
        *before, last = messages
        own = await self.encode(last.content, special=False)
        over = len(await self.tokens(messages, request)) - room
        # Cutting can change how the rest is split into tokens: a few fewer than counted.
        left = own[min(len(own), over + 8) :]
        text = (await self.link.post("/detokenize", {"tokens": left}))["content"] if left else ""
        kept = [*before, last.model_copy(update={"content": text})]
        tokens = await self.tokens(kept, request)
        if len(tokens) > room:
            raise refuse(len(tokens), room)
        return kept, tokens


def turn(message: Message) -> Json:
    """A message as chat templates know it, arguments of calls as an object."""
    found: Json = {
        "role": "system" if message.role == "developer" else message.role,
        "content": message.content,
    }
    if message.images:
        pictures = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in message.images
        ]
        found["content"] = [*pictures, {"type": "text", "text": message.content}]
    if message.thinking:
        found["reasoning_content"] = message.thinking
    if message.tool_calls:
        found["tool_calls"] = [
            {
                "type": "function",
                "id": call.id or "",
                "function": {"name": call.name, "arguments": dict(call.arguments)},
            }
            for call in message.tool_calls
        ]
    if message.tool_name:
        found["name"] = message.tool_name
    if message.tool_call_id:
        found["tool_call_id"] = message.tool_call_id
    return found


def without(messages: Sequence[Message], count: int) -> Sequence[Message]:
    """The conversation without its first `count` messages; system messages among them stay."""
    start = count
    # An answer or a tool's result without the question before it confuses templates.
    while start < len(messages) - 1 and messages[start].role in ("assistant", "tool"):
        start += 1
    return [m for m in messages[:start] if m.role in ("system", "developer")] + list(messages[start:])


def cut(tokens: Sequence[int], room: int, keep: int) -> list[int]:
    """At most `room` tokens: the first `keep` (at most half the room) and the last ones."""
    keep = max(0, min(keep, room // 2))
    return [*tokens[:keep], *tokens[len(tokens) - (room - keep) :]]


def target(context: int, wanted: int) -> int:
    """How long a prompt may stay once something must go: room for the answer is kept, a quarter at most."""
    return max(1, context - min(wanted if wanted > 0 else 256, max(1, context // 4)))


def refuse(tokens: int, context: int) -> ContextExceeded:
    """The error for a prompt that may not be cut."""
    return ContextExceeded(
        f"the prompt is longer than the context length: {tokens} tokens, and {context} are available",
        hint="raise num_ctx, shorten the prompt, or allow truncation",
    )


def _chat(messages: Sequence[Message], request: GenerateRequest) -> Json:
    turns = [turn(message) for message in messages]
    for each in turns:
        for call in each.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    body: Json = {"messages": turns}
    if tools := _chosen(request.tools, request.tool_choice):
        body |= {"tools": tools, "parallel_tool_calls": request.parallel_tool_calls}
        body["tool_choice"] = "auto" if request.tool_choice == "auto" else "required"
    if request.think is not None:
        body["chat_template_kwargs"] = {"enable_thinking": bool(request.think)}
        if isinstance(request.think, str):
            # gpt-oss knows no level above high.
            body["chat_template_kwargs"]["reasoning_effort"] = "high" if request.think == "max" else request.think
    return body


def _chosen(tools: Sequence[Tool], choice: str) -> list[Tool]:
    if choice in ("auto", "none", "required"):
        return [] if choice == "none" else list(tools)
    found = [tool for tool in tools if (tool.get("function") or {}).get("name") == choice]
    if not found:
        raise InvalidRequest(f"tool_choice names {choice!r}, which is not among the tools")
    return found


def _response_format(format: str | Json) -> Json:
    if isinstance(format, str):
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"schema": format}}


def _limit(request: GenerateRequest, context: int, prompt: int) -> int:
    """Tokens to generate. Without a number, or when old tokens may not go, what is left of the context."""
    room, wanted = max(0, context - prompt), request.options.num_predict
    if wanted < 0 or not request.shift:
        return room if wanted < 0 else min(wanted, room)
    return wanted


def _sampling(options: Options, limit: int) -> Json:
    body: dict[str, Any] = {
        "n_predict": limit,
        "max_tokens": limit,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "typical_p": options.typical_p,
        "seed": options.seed,
        "repeat_last_n": options.repeat_last_n,
        "repeat_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "n_keep": options.num_keep,
        "speculative.n_max": options.draft_num_predict,
        "stop": list(options.stop),
    }
    if options.logit_bias:
        body["logit_bias"] = [[token, bias] for token, bias in options.logit_bias.items()]
    return body
