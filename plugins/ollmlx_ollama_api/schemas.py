"""JSON schemas of the answers, for the OpenAPI description: the fields that clients rely on."""

from __future__ import annotations

import functools

from ollmlx.web import BOOLEAN, INTEGER, NUMBER, OBJECT, STRING, Schema, describe, listing, record

DIGEST: Schema = {"type": "string", "pattern": "^sha256[:-][0-9a-fA-F]{64}$"}

_DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
_FIGURES = dict.fromkeys((*_DURATIONS, "prompt_eval_count", "prompt_eval_cached_count", "eval_count"), INTEGER)
_ALWAYS: dict[str, Schema] = {"model": STRING, "created_at": {**STRING, "format": "date-time"}, "done": BOOLEAN}
_LOGPROBS = listing(record({"token": STRING, "logprob": NUMBER, "bytes": listing(INTEGER)}))
_LAST = {"done_reason": STRING, "logprobs": _LOGPROBS, **_FIGURES}

_RENDERED = record({"model": STRING, "created_at": _ALWAYS["created_at"], "_debug_info": OBJECT})
"""The answer to a request that only asks for the prompt."""

GENERATED: Schema = {
    "anyOf": [record({**_ALWAYS, "response": STRING}, thinking=STRING, context=listing(INTEGER), **_LAST), _RENDERED]
}
MESSAGE = record({"role": STRING, "content": STRING}, thinking=STRING, tool_calls=listing(OBJECT))
CHATTED: Schema = {"anyOf": [record({**_ALWAYS, "message": MESSAGE}, **_LAST), _RENDERED]}
PROGRESS = record({"status": STRING}, digest=STRING, total=INTEGER, completed=INTEGER)
VECTOR = listing(NUMBER)
EMBEDDED = record({"model": STRING, "embeddings": listing(VECTOR)}, **_FIGURES)
RERANKED = record(
    {"model": STRING, "results": listing(record({"index": INTEGER, "relevance_score": NUMBER}, truncated=BOOLEAN))},
    **_FIGURES,
)
EMBEDDED_ONE = record({"embedding": VECTOR})
MODELS = record({"models": listing(record({"name": STRING, "model": STRING, "size": INTEGER, "digest": STRING}))})
SHOWN = record({"modelfile": STRING, "details": OBJECT, "model_info": OBJECT, "capabilities": listing(STRING)})
VERSION = record({"version": STRING}, ollmlx=STRING)

described = functools.partial(describe, error=record({"error": STRING}, code=STRING, hint=STRING))
"""Describe a route of this family: `describe` with the schema of its errors."""
