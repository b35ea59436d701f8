"""JSON schemas of the answers, for the OpenAPI description: the fields that Anthropic's clients rely on."""

from __future__ import annotations

from ollmlx.web import INTEGER, OBJECT, STRING, listing, nullable, one_of, record

_BLOCK = {
    "oneOf": [
        record({"type": one_of("text"), "text": STRING}),
        record({"type": one_of("thinking"), "thinking": STRING, "signature": STRING}),
        record({"type": one_of("tool_use"), "id": STRING, "name": STRING, "input": OBJECT}),
    ]
}
MESSAGE = record(
    {
        "id": STRING,
        "type": one_of("message"),
        "role": one_of("assistant"),
        "model": STRING,
        "content": listing(_BLOCK),
        "stop_reason": one_of("end_turn", "max_tokens", "stop_sequence", "tool_use"),
        "stop_sequence": nullable(STRING),
        "usage": record({"input_tokens": INTEGER, "output_tokens": INTEGER}, cache_read_input_tokens=INTEGER),
    }
)
COUNT = record({"input_tokens": INTEGER})
ERROR = record(
    {"type": {"const": "error"}, "error": record({"type": STRING, "message": STRING})},
    request_id={"type": ["string", "null"]},
)
