"""What answers look like, for the OpenAPI description: the fields that clients rely on."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}


def record(required: dict[str, Schema], **optional: Schema) -> Schema:
    """An object with these fields, and maybe more."""
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def listing(item: Schema) -> Schema:
    """An array."""
    return {"type": "array", "items": item}


ERROR = record({"error": STRING}, code=STRING, hint=STRING)

_NAMES = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_cached_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)
_FIGURES = dict.fromkeys(_NAMES, INTEGER)
_ALWAYS: dict[str, Schema] = {"model": STRING, "created_at": {**STRING, "format": "date-time"}, "done": BOOLEAN}
_LOGPROBS = listing(record({"token": STRING, "logprob": {"type": "number"}, "bytes": listing(INTEGER)}))

GENERATED = record(
    {**_ALWAYS, "response": STRING},
    thinking=STRING,
    done_reason=STRING,
    context=listing(INTEGER),
    logprobs=_LOGPROBS,
    **_FIGURES,
)
MESSAGE = record({"role": STRING, "content": STRING}, thinking=STRING, tool_calls=listing(OBJECT))
CHATTED = record({**_ALWAYS, "message": MESSAGE}, done_reason=STRING, logprobs=_LOGPROBS, **_FIGURES)
PROGRESS = record({"status": STRING}, digest=STRING, total=INTEGER, completed=INTEGER)
VECTOR = listing({"type": "number"})
EMBEDDED = record({"model": STRING, "embeddings": listing(VECTOR)}, **_FIGURES)
MODELS = record({"models": listing(record({"name": STRING, "model": STRING, "size": INTEGER, "digest": STRING}))})
SHOWN = record({"modelfile": STRING, "details": OBJECT, "model_info": OBJECT, "capabilities": listing(STRING)})
VERSION = record({"version": STRING}, ollmlx=STRING)
