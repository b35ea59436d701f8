"""From a request to one of llama.cpp's: the route, the body, a prompt that fits the context length.

llama.cpp takes a chat template only while it loads. A template that a request or a Modelfile brings is rendered here.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ollmlx import LimitExceeded, is_go_template, passes_tools, render_template
from ollmlx.errors import InvalidRequest, OllmlxError, Unsupported
from ollmlx.runner.kit import (
    OldestFirst,
    bounded_text,
    call_schema,
    check_lark,
    check_schema,
    context_exceeded,
    cut_tokens,
    knows_effort,
    later_systems_into_user,
    offered_tools,
    one_by_one,
    thinking_budget,
    truncation_target,
)
from ollmlx.types import GenerateRequest, Message
from ollmlx_llamacpp.bodies import (
    answer_limit,
    chat_body,
    check_chat_schemas,
    is_simple,
    rendered_text,
    response_format,
    sampling_body,
    turn_of,
)
from ollmlx_llamacpp.client import Json, LlamaCppClient
from ollmlx_llamacpp.limits import Rendering

Made = TypeVar("Made")
CHAT, TEXT, INSERT = "/v1/chat/completions", "/completion", "/infill"
PARTS = re.compile("think|thought|reason|channel", re.IGNORECASE)
"""Words in a chat template by which an answer may have other parts than its text."""
TRIAL = {"role": "user", "content": "a"}, {"role": "assistant", "content": "an answer"}
_USER = Message(role="user", content=" What is\n1 < 2? ")
_ANSWER = Message(role="assistant", content="\nIt is true.\n")
TRIALS = (_USER,), (Message(role="system", content=" Be brief.\n"), _USER, _ANSWER, _USER)
"""Simple conversations."""
LARK = "%llguidance {}\n"
"""The beginning of a grammar for llguidance; any other is one of llama.cpp's own."""


@dataclass(frozen=True)
class LlamaCppPrompt:
    """A request to llama.cpp. `tokens` are the prompt's ids; `dropped` of them were left out to make it fit.

    `calls`: the answer is a tool call, which llama.cpp sends as text. `freeform`: the request whose freeform
    tool takes the answer.
    """

    path: str
    body: Json
    tokens: tuple[int, ...] = ()
    dropped: int = 0
    calls: bool = False
    freeform: GenerateRequest | None = None

    def needs(self, reserve: int) -> int:
        """Return the tokens of the cache for prompt and answer, for an answer of at most `reserve` tokens."""
        limit = int(self.body["n_predict"])
        letters = sum(len(str(self.body.get(part) or "")) for part in ("input_prefix", "input_suffix"))
        return len(self.tokens) + letters // 2 + (min(limit, reserve) if limit >= 0 else reserve) + 1


@dataclass
class LlamaCppPrompts:
    """Makes the prompts of one model. `template`: its file's chat template, or ""; `marker`: what stands for a picture
    or a sound in a text, empty without a projector; `stated`: the template that its store has for it; `lark`: Lark
    grammars are known to work, None: not tried; `plain`: the template writes an answer as it is, None: not tried;
    `alike`: a helper renders as llama.cpp does.
    """

    client: LlamaCppClient
    model_name: str
    context_length: int
    template: str
    marker: str = ""
    stated: str | None = None
    lark: bool | None = None
    plain: bool | None = None
    alike: bool | None = None

    def __post_init__(self) -> None:
        self.rendering = Rendering(self.client)

    async def build(self, request: GenerateRequest) -> LlamaCppPrompt:
        """Return the request for llama.cpp. Raises InvalidRequest, Unsupported, ContextExceeded."""
        return await self._helped(request, self._build)

    async def rendered(self, request: GenerateRequest) -> tuple[str, list[int]]:
        """Return the text that a request's conversation becomes, and its ids. Raises InvalidRequest, Unsupported."""

        async def work(asked: GenerateRequest) -> tuple[str, list[int]]:
            text = await self._text_of(asked.messages, asked)
            return text, await self.encode(text)

        return await self._helped(request, work)

    async def _helped(self, request: GenerateRequest, work: Callable[[GenerateRequest], Awaitable[Made]]) -> Made:
        """Do the work; when the template refuses a system message in the middle, as a part of the user's turn."""
        try:
            return await work(request)
        except InvalidRequest as refusal:
            moved = later_systems_into_user(request.messages)
            if moved == request.messages:
                raise
            try:
                return await work(request.model_copy(update={"messages": moved}))
            except InvalidRequest:
                raise refusal from None

    async def _build(self, request: GenerateRequest) -> LlamaCppPrompt:
        if request.grammar:
            await one_by_one(check_lark, request.grammar)
        media = any(message.media for message in request.messages)
        if media and not self.marker:
            raise Unsupported(f"{self.model_name} does not support images")
        if request.suffix and not (is_go_template(request.template or "") and ".Suffix" in (request.template or "")):
            return await self._insertion(request)
        context = min(request.options.num_ctx or self.context_length, self.context_length)
        if request.grammar and request.messages and not media and await self._takes_lark():
            return await self._freeform(request, context)
        if request.messages and not self._must_render(request):
            return await self._conversation(request, context)
        return await self._text(request, context)

    async def tokens(self, messages: Sequence[Message], request: GenerateRequest) -> list[int]:
        """Return the ids of a conversation through the chat template, after the ids in `request.context`."""
        text = await self._text_of(messages, request)
        return [*request.context, *await self.encode(text, special=not request.context)]

    async def _text_of(self, messages: Sequence[Message], request: GenerateRequest) -> str:
        """Return what the chat template makes of a conversation: the request's, or that of the model's file."""
        if request.template:
            if offered_tools(request.tools, request.tool_choice) and not passes_tools(request.template):
                raise Unsupported(f"{self.model_name} does not support tools: its template does not mention them")
            turns = [turn_of(message, self.marker) for message in messages]
            return await self._lane(request)(rendered_text, request.template, turns, request, self.model_name)
        if self.template:
            text = await self._try_template(messages, request)
            if text is not None and is_simple(messages, request) and await self._renders_alike():
                return text
            return await self.rendering.text(chat_body(messages, request))
        return "\n\n".join(str(turn_of(message, self.marker)["content"]) for message in messages)

    def _lane(self, request: GenerateRequest) -> Callable[..., Awaitable[str]]:
        """Return where a template is rendered: the model's beside the others, a request's own after its like."""
        return asyncio.to_thread if request.template == self.stated else one_by_one

    async def _try_template(self, messages: Sequence[Message], request: GenerateRequest) -> str | None:
        """Return what a helper makes with the template of the model's file; None when it refuses: llama.cpp tells why.

        Raises LimitExceeded when it reaches a limit: llama.cpp renders without any.
        """
        turns = [
            turn_of(
                message.model_copy(update={kind: ("",) * len(getattr(message, kind)) for kind in ("images", "audio")})
            )
            for message in messages
        ]
        try:
            return await asyncio.to_thread(rendered_text, self.template, turns, request, self.model_name)
        except LimitExceeded:
            raise
        except InvalidRequest:
            return None

    async def _renders_alike(self) -> bool:
        """Return whether a helper makes of simple conversations what llama.cpp does, which is then not asked."""
        if self.alike is None:
            trials = [GenerateRequest(messages=messages) for messages in TRIALS]
            try:
                own = [await self._try_template(trial.messages, trial) for trial in trials]
                self.alike = own == [await self.rendering.text(chat_body(trial.messages, trial)) for trial in trials]
            except OllmlxError:
                self.alike = False
        return self.alike

    async def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids of a text; `special` adds the tokens that the model expects in front."""
        body = {"content": bounded_text(text), "add_special": special, "parse_special": True}
        return list((await self.client.post("/tokenize", body))["tokens"])

    async def _decode(self, tokens: Sequence[int]) -> str:
        return str((await self.client.post("/detokenize", {"tokens": list(tokens)}))["content"])

    def _must_render(self, request: GenerateRequest) -> bool:
        """True when llama.cpp's chat route cannot be used: it takes no earlier ids and no other template."""
        return bool(request.context) or not self.template or bool(request.template)

    async def _conversation(self, request: GenerateRequest, context: int) -> LlamaCppPrompt:
        check_chat_schemas(request)
        messages, tokens, dropped = await self._fit(request, context)
        sampling = sampling_body(request.options, answer_limit(request, context, len(tokens)))
        if await self._is_plain(request):
            probabilities = {"n_probs": max(1, request.top_logprobs)} if request.top_logprobs is not None else {}
            body = sampling | probabilities | {"prompt": tokens, "return_tokens": True, "return_progress": True}
            return LlamaCppPrompt(TEXT, body, tuple(tokens), dropped)
        body = chat_body(messages, request) | sampling
        if request.top_logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": max(1, request.top_logprobs)}
        if request.format is not None:
            body["response_format"] = response_format(request.format)
        if (budget := thinking_budget(request, knows_effort=knows_effort(self.template))) is not None:
            body["thinking_budget_tokens"] = budget
        return LlamaCppPrompt(CHAT, body | {"verbose": True, "return_progress": True}, tuple(tokens), dropped)

    async def _is_plain(self, request: GenerateRequest) -> bool:
        """Return whether the answer is text and nothing else, so that its prompt can go as ids.

        llama.cpp's chat route would render and split the prompt again, and parse the whole answer for each token.
        """
        if any(message.media for message in request.messages) or request.messages[-1].role == "assistant":
            return False
        if (
            offered_tools(request.tools, request.tool_choice)
            or request.format
            or request.max_thinking_tokens is not None
        ):
            return False
        if self.plain is None:
            self.plain = not PARTS.search(self.template) and await self._writes_plainly()
        return self.plain

    async def _writes_plainly(self) -> bool:
        """Return whether the template puts nothing between the beginning of the assistant's turn and its text."""
        question, answer = TRIAL
        try:
            begun, whole = [
                await self.rendering.text({"messages": turns}) for turns in ([question], [question, answer, question])
            ]
        except OllmlxError:  # the template refuses this conversation
            return False
        return whole.startswith(begun + answer["content"])

    async def _text(self, request: GenerateRequest, context: int) -> LlamaCppPrompt:
        if request.max_thinking_tokens is not None and request.prompt is None:
            raise Unsupported("max_thinking_tokens needs the model's own chat template")
        if request.suffix:
            filled = {"prompt": request.prompt, "suffix": request.suffix}
            text = await self._lane(request)(render_template, request.template or "", filled)
            tokens = await self.encode(text)
        elif request.prompt is not None:
            tokens = [*request.context, *await self.encode(request.prompt, special=not request.context)]
        else:
            tokens = await self.tokens(request.messages, request)
        if not tokens:
            raise InvalidRequest("the prompt is empty")
        kept, media = tokens, [file for message in request.messages for file in message.media]
        if len(tokens) >= context:
            if not request.truncate or media:
                raise context_exceeded(len(tokens), context - 1)
            target = truncation_target(context, request.options.num_predict)
            kept = cut_tokens(tokens, target, request.options.num_keep)
        body = sampling_body(request.options, answer_limit(request, context, len(kept)))
        if request.top_logprobs is not None:
            body["n_probs"] = max(1, request.top_logprobs)
        if request.format is not None:
            body["json_schema"] = {"type": "object"} if request.format == "json" else request.format
        calls = request.tool_choice not in ("auto", "none") and bool(request.tools)
        if calls:
            body["json_schema"] = call_schema(offered_tools(request.tools, request.tool_choice), "arguments")
        if "json_schema" in body:  # llama.cpp does without one that it cannot compile, and says nothing
            await one_by_one(check_schema, json.dumps(body["json_schema"]))
        prompt: Json | list[int] = kept
        if media:
            before = await self._decode(request.context) if request.context else ""
            text = before + await self._text_of(request.messages, request)
            prompt = {"prompt_string": text, "multimodal_data": media}
        body |= {"prompt": prompt, "return_tokens": True, "return_progress": True}
        return LlamaCppPrompt(TEXT, body, tuple(kept), len(tokens) - len(kept), calls)

    async def _freeform(self, request: GenerateRequest, context: int) -> LlamaCppPrompt:
        """Return a request whose answer is the text that a freeform tool takes."""
        plain = request.model_copy(update={"think": False, "max_thinking_tokens": None})
        prompt = await self._text(plain, context)
        body = {name: value for name, value in prompt.body.items() if name != "json_schema"}
        return replace(prompt, body=body | {"grammar": LARK + (request.grammar or "")}, calls=False, freeform=request)

    async def _takes_lark(self) -> bool:
        """Return whether llama.cpp was built with llguidance. One that was not writes what it likes, without error."""
        if self.lark is None:
            asked = {"prompt": "1", "grammar": f'{LARK}start: "lark"', "n_predict": 8, "temperature": 0}
            self.lark = (await self.client.post(TEXT, asked | {"cache_prompt": False}))["content"] == "lark"
        return self.lark

    async def _insertion(self, request: GenerateRequest) -> LlamaCppPrompt:
        """Return a request to fill a gap. llama.cpp itself cuts the text around a gap that is too long."""
        if request.prompt is None:
            raise InvalidRequest("suffix goes with a prompt, not with messages")
        if not request.truncate:
            count = len(await self.encode(request.prompt)) + len(await self.encode(request.suffix or "", special=False))
            if count >= self.context_length:
                raise context_exceeded(count, self.context_length - 1)
        body = sampling_body(request.options, request.options.num_predict)
        body |= {"input_prefix": request.prompt, "input_suffix": request.suffix, "prompt": ""}
        return LlamaCppPrompt(INSERT, body | {"return_tokens": True, "return_progress": True})

    async def _fit(self, request: GenerateRequest, context: int) -> tuple[Sequence[Message], list[int], int]:
        """Return the newest turns that fit, their ids, and how many ids were left out. The last turn always stays."""
        whole = await self.tokens(request.messages, request)
        if len(whole) < context:
            return request.messages, whole, 0
        if not request.truncate:
            raise context_exceeded(len(whole), context - 1)
        target = truncation_target(context, request.options.num_predict)
        search = OldestFirst(request.messages, target)
        while (kept := search.candidate()) is not None:
            search.measured(await self.tokens(kept, request))
        messages, tokens = search.best or (list(request.messages), whole)
        if not search.fits:
            messages, tokens = await self._shorten(request, messages, len(tokens), target)
        return messages, tokens, len(whole) - len(tokens)

    async def _shorten(
        self, request: GenerateRequest, messages: list[Message], count: int, target: int
    ) -> tuple[list[Message], list[int]]:
        """Cut the beginning of the last turn: the conversation has `count` tokens and may have `target`."""
        *before, last = messages
        own = await self.encode(last.content, special=False)
        # Cutting can change how the rest is split into tokens: cut a few more than counted.
        left = own[min(len(own), count - target + 8) :]
        text = await self._decode(left) if left else ""
        kept = [*before, last.model_copy(update={"content": text})]
        tokens = await self.tokens(kept, request)
        if len(tokens) > target:
            raise context_exceeded(len(tokens), target)
        return kept, tokens
