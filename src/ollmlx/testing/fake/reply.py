"""What a fake model answers, worked out before the first token: the events, the ids, why it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ollmlx.errors import InvalidRequest
from ollmlx.testing.fake import tokens
from ollmlx.testing.fake.instance import instance_of
from ollmlx.testing.fake.script import Script, directed
from ollmlx.types import Event, GenerateRequest, Message, Text, Thinking, TokenLogprob, Tool, ToolCall, ToolCalled

LOGPROB = -0.25


@dataclass(frozen=True)
class Reply:
    """One answer: words, each with whether it is thought, or a tool call. Ids include thinking and tool calls."""

    ids: tuple[int, ...]
    words: tuple[tuple[str, bool], ...] = ()
    call: ToolCall | None = None
    reason: Literal["stop", "length"] = "stop"
    stop: str | None = None
    top_logprobs: int | None = None

    def events(self) -> Iterator[Event]:
        """An event a token, made when it is asked for; or the one tool call."""
        if self.call is not None:
            yield ToolCalled(call=self.call)
        for piece, is_thought in self.words:
            yield _event(piece, is_thought, self.top_logprobs)

    @property
    def steps(self) -> int:
        """How many events that is."""
        return 1 if self.call is not None else len(self.words)

    @property
    def generated(self) -> int:
        return len(self.ids)


def conversation(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
    """The fake chat template: a line a message, control words taken out."""
    offered = [f"tools: {json.dumps(list(tools), ensure_ascii=False)}\n"] if tools else []
    lines = [f"{message.role}: {directed(Script(), message.content)[1]}\n" for message in messages]
    return "".join([*offered, *lines, "assistant:"])


def reply_to(request: GenerateRequest, script: Script, last: str) -> Reply:
    """The answer to `last`, the prompt or the latest message without its control words."""
    limit = request.options.num_predict if request.options.num_predict >= 0 else None
    call = _call(request, script)
    if call is not None:
        ids = tokens.encode(json.dumps(call.arguments))
        return Reply(ids or tokens.encode(call.name), call=call)
    thought = tokens.pieces(script.think or "hmm") if request.think or (request.think is None and script.think) else []
    answer, stop = _stopped(_answer(request, script, last), request.options.stop)
    words = [(piece, True) for piece in thought] + [(piece, False) for piece in answer]
    reason: Literal["stop", "length"] = "stop"
    if limit is not None and len(words) > limit:
        words, reason, stop = words[:limit], "length", None
    return Reply(
        ids=tuple(tokens.token_id(piece) for piece, _ in words),
        words=tuple(words),
        reason=reason,
        stop=stop,
        top_logprobs=request.top_logprobs,
    )


def _answer(request: GenerateRequest, script: Script, last: str) -> list[str]:
    if script.tokens is not None:
        return [f" t{number % 10000}" for number in range(script.tokens)]
    if script.say is not None:
        return tokens.pieces(script.say)
    if request.format is not None:
        value = {"answer": last} if request.format == "json" else instance_of(request.format)
        return tokens.pieces(json.dumps(value, ensure_ascii=False))
    return tokens.pieces(last or "ok")


def _stopped(pieces: list[str], stops: tuple[str, ...]) -> tuple[list[str], str | None]:
    text = "".join(pieces)
    found = sorted((text.find(stop), stop) for stop in stops if stop and stop in text)
    if not found:
        return pieces, None
    at, stop = found[0]
    kept, length = [], 0
    for piece in pieces:
        if length >= at:
            break
        kept.append(piece[: at - length])
        length += len(piece)
    return kept, stop


def _event(piece: str, is_thought: bool, top: int | None) -> Event:
    logprobs: tuple[TokenLogprob, ...] = ()
    if top is not None:
        others = tuple(
            TokenLogprob(token=f"{piece}{rank or ''}", logprob=LOGPROB * (rank + 1), id=tokens.token_id(piece) + rank)
            for rank in range(top)
        )
        logprobs = (TokenLogprob(token=piece, logprob=LOGPROB, top=others, id=tokens.token_id(piece)),)
    return Thinking(text=piece, logprobs=logprobs) if is_thought else Text(text=piece, logprobs=logprobs)


def _call(request: GenerateRequest, script: Script) -> ToolCall | None:
    """The tool call the script or the request insists on."""
    if script.tool is not None:
        try:
            arguments = json.loads(script.tool_args)
        except ValueError as error:
            raise InvalidRequest(f"fake: tool_args is not JSON: {error}") from None
        return ToolCall(name=script.tool, arguments=arguments, id="call_fake_1")
    if not request.tools or request.tool_choice in ("auto", "none"):
        return None
    functions: list[dict[str, Any]] = [tool["function"] for tool in request.tools]
    chosen = next((f for f in functions if request.tool_choice in ("required", f["name"])), None)
    if chosen is None:
        raise InvalidRequest(f"there is no tool {request.tool_choice!r}")
    return ToolCall(name=chosen["name"], arguments=instance_of(chosen.get("parameters") or {}), id="call_fake_1")
