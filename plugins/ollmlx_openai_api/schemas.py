"""JSON schemas of the answers, for the OpenAPI description: the fields that OpenAI's clients rely on."""

from __future__ import annotations

import functools

from ollmlx.web import BOOLEAN, INTEGER, NUMBER, OBJECT, STRING, describe, listing, nullable, one_of, record

_NULLABLE_STRING = {"type": ["string", "null"]}
NAME = {"type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.:/-]*$"}
USAGE = record(
    {"prompt_tokens": INTEGER, "completion_tokens": INTEGER, "total_tokens": INTEGER},
    prompt_tokens_details=record({"cached_tokens": INTEGER}),
)
_TOKEN = record({"token": STRING, "logprob": NUMBER}, bytes=listing(INTEGER))
_TOKENS = listing(record(_TOKEN["properties"], top_logprobs=listing(_TOKEN)))
_CALL = record(
    {"id": STRING, "type": one_of("function"), "function": record({"name": STRING, "arguments": STRING})}, index=INTEGER
)
_MESSAGE = record(
    {"role": one_of("assistant"), "content": nullable(STRING)}, reasoning=STRING, tool_calls=listing(_CALL)
)
_CHOICE = record(
    {"index": INTEGER, "message": _MESSAGE, "finish_reason": one_of("stop", "length", "tool_calls")},
    logprobs=nullable(record({"content": _TOKENS})),
)
_FRAME = {"id": STRING, "created": INTEGER, "model": STRING}
CHAT = record({**_FRAME, "object": one_of("chat.completion"), "choices": listing(_CHOICE), "usage": USAGE})

_CONTINUED = record(
    {"index": INTEGER, "text": STRING, "finish_reason": one_of("stop", "length")}, logprobs=nullable(OBJECT)
)
COMPLETION = record({**_FRAME, "object": one_of("text_completion"), "choices": listing(_CONTINUED), "usage": USAGE})

_VECTOR = {"anyOf": [listing(NUMBER), STRING]}
EMBEDDINGS = record(
    {
        "object": one_of("list"),
        "model": STRING,
        "data": listing(record({"object": one_of("embedding"), "index": INTEGER, "embedding": _VECTOR})),
        "usage": record({"prompt_tokens": INTEGER, "total_tokens": INTEGER}),
    }
)

RERANKED = record(
    {
        "object": one_of("list"),
        "id": STRING,
        "model": STRING,
        "results": listing(
            record(
                {"index": INTEGER, "relevance_score": NUMBER},
                document=record({"text": STRING}),
                truncated=BOOLEAN,
            )
        ),
        "usage": record({"prompt_tokens": INTEGER, "total_tokens": INTEGER}),
    }
)

TRANSCRIPTION = record(
    {"text": STRING},
    task=one_of("transcribe", "translate"),
    language=STRING,
    duration=NUMBER,
    segments=listing(record({"id": INTEGER, "start": NUMBER, "end": NUMBER, "text": STRING})),
    words=listing(record({"word": STRING, "start": NUMBER, "end": NUMBER})),
    usage=record({"type": one_of("duration"), "seconds": INTEGER}),
)

MODEL = record(
    {"id": STRING, "object": one_of("model"), "created": INTEGER, "owned_by": STRING},
    capabilities=listing(STRING),
    context_length=INTEGER,
    context_window=INTEGER,
    max_model_len=INTEGER,
)
MODELS = record({"object": one_of("list"), "data": listing(MODEL)})

OUTPUT_ITEMS = ("message", "reasoning", "function_call", "custom_tool_call", "local_shell_call")
RESPONSE = record(
    {
        "id": STRING,
        "object": one_of("response"),
        "created_at": INTEGER,
        "status": one_of("completed", "incomplete"),
        "model": STRING,
        "output": listing(record({"id": STRING, "type": one_of(*OUTPUT_ITEMS)})),
        "usage": record({"input_tokens": INTEGER, "output_tokens": INTEGER, "total_tokens": INTEGER}),
    },
    incomplete_details=nullable(record({"reason": STRING})),
)

described = functools.partial(
    describe,
    error=record({"error": record({"message": STRING, "type": STRING}, param=_NULLABLE_STRING, code=_NULLABLE_STRING)}),
)
"""Describe a route of this family: `describe` with the schema of its errors."""
