"""Parts of requests in llama.cpp's words: turns, tools, format, sampling, and the text that a template makes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ollmlx import LimitExceeded, is_go_template, render_template
from ollmlx.errors import InvalidRequest
from ollmlx.runner.kit import chat_turn, offered_tools, template_thinking, tool_function
from ollmlx.types import GenerateRequest, Message, Options
from ollmlx_llamacpp.client import Json
from ollmlx_llamacpp.limits import check_schemas

SAMPLERS = {"temperature", "top_k", "top_p", "min_p", "typical_p", "seed"}
PENALTIES = {"repeat_last_n", "repeat_penalty", "presence_penalty", "frequency_penalty"}
"""Like the samplers, options that llama.cpp calls as Ollama does."""


def turn_of(message: Message, marker: str = "") -> Json:
    """Return a message as chat templates expect it; its images and sounds as parts, or as markers in its text."""
    turn = chat_turn(message)
    if message.media and marker:
        turn["content"] = marker * len(message.media) + message.content
    elif message.media:
        pictures = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in message.images
        ]
        sounds = [{"type": "input_audio", "input_audio": {"data": each, "format": "wav"}} for each in message.audio]
        turn["content"] = [*pictures, *sounds, {"type": "text", "text": message.content}]
    return turn


def chat_body(messages: Sequence[Message], request: GenerateRequest) -> Json:
    """Return a conversation for llama.cpp's chat route, with its tools."""
    turns = [turn_of(message) for message in messages]
    for turn in turns:
        for call in turn.get("tool_calls", ()):
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    body: Json = {"messages": turns}
    if tools := offered_tools(request.tools, request.tool_choice):
        body |= {"tools": tools, "parallel_tool_calls": request.parallel_tool_calls}
        body["tool_choice"] = "auto" if request.tool_choice == "auto" else "required"
    if thinking := template_thinking(request.think):
        body["chat_template_kwargs"] = thinking
    return body


def is_simple(messages: Sequence[Message], request: GenerateRequest) -> bool:
    """Return whether a conversation has texts in turns only, ends with a question, and asks for nothing else."""
    return not (
        request.tools
        or request.think is not None
        or messages[-1].role != "user"
        or any(
            message.role not in ("system", "user", "assistant")
            or message.media
            or message.tool_calls
            or message.thinking
            for message in messages
        )
    )


def check_chat_schemas(request: GenerateRequest) -> None:
    """Raise LimitExceeded for schemas of a chat that would occupy llama.cpp."""
    if isinstance(request.format, dict):
        check_schemas([request.format], "the format")
    for tool in offered_tools(request.tools, request.tool_choice):
        function = tool_function(tool)
        check_schemas([function.get("parameters") or {}], f"the tool {function['name']}")


def response_format(format: str | Json) -> Json:
    """Return the format of an answer, "json" or a schema, in OpenAI's words."""
    if isinstance(format, str):
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"schema": format}}


def answer_limit(request: GenerateRequest, context: int, prompt: int) -> int:
    """Return the tokens to generate: at most the rest of the context unless the request allows shifting it."""
    room, wanted = max(0, context - prompt), request.options.num_predict
    if wanted < 0 or not request.shift:
        return room if wanted < 0 else min(wanted, room)
    return wanted


def sampling_body(options: Options, limit: int) -> Json:
    """Return how an answer of at most `limit` tokens is sampled; -1: no limit."""
    body = options.model_dump(include=SAMPLERS | PENALTIES) | {
        "n_predict": limit,
        "max_tokens": limit,
        "n_keep": options.num_keep,
        "stop": list(options.stop),
    }
    if options.logit_bias:
        body["logit_bias"] = [[token, bias] for token, bias in options.logit_bias.items()]
    return body


def rendered_text(template: str, turns: list[Json], request: GenerateRequest, model_name: str) -> str:
    """Return the prompt text. Raises InvalidRequest with the template's message when it refuses the conversation."""
    go = is_go_template(template)  # it leaves the assistant's last turn open by itself
    last = turns[-1]["content"] if request.continue_last and turns and not go else None
    try:
        text = render_template(
            template,
            {
                "messages": turns[:-1] if last is not None else turns,
                "tools": offered_tools(request.tools, request.tool_choice) or None,
                "add_generation_prompt": True,
                "bos_token": "",
                "eos_token": "",
                **template_thinking(request.think),
            },
        )
    except LimitExceeded:
        raise
    except InvalidRequest as error:
        raise InvalidRequest(f"the chat template of {model_name} refuses this conversation: {error.message}") from error
    return text + (last or "")
