"""The answers of fake models, made before the first token: tokens, the reply, and wrong tokens on purpose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from ollmlx.errors import InvalidRequest
from ollmlx.testing.fake.play import PlayStep
from ollmlx.testing.fake.script import Script, directed
from ollmlx.types import Event, GenerateRequest, Message, Text, Thinking, TokenLogprob, Tool, ToolCall, ToolCalled

LOGPROB = -0.25
_WORD = re.compile(r"\s*\S+|\s+")
_MAX_BYTES = 6  # token ids stay below 2**53, which every JSON reader takes


# -- tokenizer: pieces of at most six bytes, each its own number; exact both ways, the same on every machine ---------


def split_tokens(text: str) -> list[str]:
    """Return the tokens of a text; joined, they are the text."""
    return [piece for word in _WORD.findall(text) for piece in _cut(word)]


def _cut(word: str) -> Iterable[str]:
    piece = ""
    for char in word:
        if piece and len((piece + char).encode("utf-8", "surrogatepass")) > _MAX_BYTES:
            yield piece
            piece = ""
        piece += char
    if piece:
        yield piece


def token_id(piece: str) -> int:
    """Return the number of one token: its bytes, behind a one."""
    return int.from_bytes(b"\x01" + piece.encode("utf-8", "surrogatepass"), "big")


def encode(text: str) -> tuple[int, ...]:
    """Return the token ids of a text."""
    return tuple(token_id(piece) for piece in split_tokens(text))


def decode(ids: Iterable[int]) -> str:
    """Return the text of token ids; an unknown id becomes U+FFFD."""
    return "".join(_piece(number) for number in ids)


def _piece(number: int) -> str:
    raw = number.to_bytes(8, "big").lstrip(b"\x00") if 0 < number < 2**63 else b""
    return raw[1:].decode("utf-8", "replace") if raw[:1] == b"\x01" else "\ufffd"


# -- replies ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FakeReply:
    """One answer: words, each with a flag for thinking, then tool calls. `ids` include both."""

    ids: tuple[int, ...]
    words: tuple[tuple[str, bool], ...] = ()
    calls: tuple[ToolCall, ...] = ()
    reason: Literal["stop", "length"] = "stop"
    stop: str | None = None
    top_logprobs: int | None = None

    def events(self) -> Iterator[Event]:
        """Yield an event for each token and each tool call."""
        for piece, is_thought in self.words:
            yield _event(piece, is_thought, self.top_logprobs)
        for call in self.calls:
            yield ToolCalled(call=call)

    @property
    def steps(self) -> int:
        """The number of events."""
        return len(self.words) + len(self.calls)


def conversation(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
    """Return the prompt of the fake chat template: a line for each message, without control words."""
    offered = [f"tools: {json.dumps(list(tools), ensure_ascii=False)}\n"] if tools else []
    lines = [f"{message.role}: {directed(Script(), message.content)[1]}\n" for message in messages]
    return "".join([*offered, *lines, "assistant:"])


def reply_to(request: GenerateRequest, script: Script, last: str) -> FakeReply:
    """Return the answer to `last`, the prompt or the latest message without its control words."""
    request = _without_promise(request, script)
    limit = request.options.num_predict if request.options.num_predict >= 0 else None
    call = _call(request, script)
    if call is not None:
        return FakeReply(encode(json.dumps(call.arguments)) or encode(call.name), calls=(call,))
    thinks = request.think or (request.think is None and script.think)
    thought = split_tokens(script.think or "hmm") if thinks else []
    answer, stop = _stopped(_answer(request, script, last), request.options.stop)
    words = [(piece, True) for piece in thought] + [(piece, False) for piece in answer]
    reason: Literal["stop", "length"] = "stop"
    if limit is not None and len(words) > limit:
        words, reason, stop = words[:limit], "length", None
    return FakeReply(
        ids=tuple(token_id(piece) for piece, _ in words),
        words=tuple(words),
        reason=reason,
        stop=stop,
        top_logprobs=request.top_logprobs,
    )


def reply_of(step: PlayStep, number: int) -> FakeReply:
    """Return the answer that a play has for a request. The ids of its calls contain `number`."""
    words = [(piece, True) for piece in split_tokens(step.think)] + [(piece, False) for piece in split_tokens(step.say)]
    calls = tuple(
        call.model_copy(update={"id": call.id or f"call_fake_{number}_{index}"})
        for index, call in enumerate(step.calls)
    )
    ids = tuple(token_id(piece) for piece, _ in words) + encode("".join(json.dumps(call.arguments) for call in calls))
    return FakeReply(ids, tuple(words), calls, reason="length" if step.cut else "stop")


def _answer(request: GenerateRequest, script: Script, last: str) -> list[str]:
    if script.tokens is not None:
        return [f" t{number % 10000}" for number in range(script.tokens)]
    if script.say is not None:
        return split_tokens(script.say)
    if request.format is not None:
        value = {"answer": last} if request.format == "json" else instance_of(request.format)
        return split_tokens(json.dumps(value, ensure_ascii=False))
    images = [image for message in request.messages[-1:] for image in message.images]
    return split_tokens(
        "".join([last or "ok", *(f" sees {sha256(image.encode()).hexdigest()[:8]}" for image in images)])
    )


def _stopped(pieces: list[str], stops: tuple[str, ...]) -> tuple[list[str], str | None]:
    text = "".join(pieces)
    found = sorted((text.find(stop), stop) for stop in stops if stop and stop in text)
    if not found:
        return pieces, None
    at, stop = found[0]
    return split_tokens(text[:at]), stop


def _event(piece: str, is_thought: bool, top: int | None) -> Event:
    logprobs: tuple[TokenLogprob, ...] = ()
    if top is not None:
        others = tuple(
            TokenLogprob(token=f"{piece}{rank or ''}", logprob=LOGPROB * (rank + 1), id=token_id(piece) + rank)
            for rank in range(top)
        )
        logprobs = (TokenLogprob(token=piece, logprob=LOGPROB, top=others, id=token_id(piece)),)
    return Thinking(text=piece, logprobs=logprobs) if is_thought else Text(text=piece, logprobs=logprobs)


def _call(request: GenerateRequest, script: Script) -> ToolCall | None:
    """Return the tool call that the script or the request requires."""
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


def instance_of(schema: dict[str, Any], root: dict[str, Any] | None = None) -> Any:
    """Return the smallest value that satisfies a JSON schema.

    Knows types, properties, items, enum, const, anyOf, allOf, local `$ref`. Raises InvalidRequest for an unknown type.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        found: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            found = found[part]
        return instance_of(dict(found), root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for word in ("anyOf", "oneOf", "allOf"):
        if schema.get(word):
            return instance_of(schema[word][0], root)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return _of_type(kind[0] if isinstance(kind, list) else kind, schema, root)


def _of_type(kind: str, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    if kind == "object":
        required = schema.get("required", list(schema.get("properties", {})))
        properties = schema.get("properties", {})
        return {name: instance_of(properties.get(name, {}), root) for name in required}
    if kind == "array":
        return [instance_of(schema.get("items") or {}, root) for _ in range(int(schema.get("minItems", 1)))]
    if kind == "string":
        return "x" * max(int(schema.get("minLength", 0)), 1)
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    if kind not in ("boolean", "null"):
        raise InvalidRequest(f"invalid format: Invalid type: {kind}")
    return True if kind == "boolean" else None


# -- wrong answers: they look like any other, and the doctor's self-test has to find them ----------------------------


def _without_promise(request: GenerateRequest, script: Script) -> GenerateRequest:
    """Remove from the request what the script's wrong answers ignore."""
    if script.wrong_answers == "schema":
        return request.model_copy(update={"format": None})
    if script.wrong_answers == "blind":
        messages = tuple(message.model_copy(update={"images": ()}) for message in request.messages)
        return request.model_copy(update={"messages": messages})
    if script.wrong_answers == "stop":
        return request.model_copy(update={"options": request.options.model_copy(update={"stop": ()})})
    return request


def wrong_token(event: Event) -> Event:
    """Return the event with another token than the right one."""
    if not isinstance(event, Text) or not event.text:
        return event
    wrong = event.text[:-1] + ("#" if event.text[-1] != "#" else "%")
    logprobs = tuple(one.model_copy(update={"token": wrong}) for one in event.logprobs)
    return event.model_copy(update={"text": wrong, "logprobs": logprobs})
