"""The parsers of strangers' bytes, each as a function of bytes, for `guided` and for the tests that replay the corpus.

`corpus` has one folder of small inputs for each parser.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ollmlx import ModelName, read_gguf_header, read_safetensors_header
from ollmlx.calls.mending import BrokenJson, read_json
from ollmlx.calls.schema import OfferedTools
from ollmlx.calls.shapes import NoCall, UnreadableCall, find_calls
from ollmlx.errors import OllmlxError
from ollmlx.errors.secrets import mask_text
from ollmlx.gotemplate import GoChatTemplate
from ollmlx.model.modelfile import parse_modelfile
from ollmlx.model.names import parse_digest
from ollmlx.protocol import decode_event
from ollmlx.text.addresses import Address
from ollmlx.text.controls import escape_text
from ollmlx.text.quantities import parse_duration, parse_size
from ollmlx.types import GenerateRequest
from ollmlx.web.kit.body import parse_json

CORPUS = Path(__file__).parent / "corpus"
EXPECTED = (OllmlxError, ValidationError, NoCall, UnreadableCall, BrokenJson)
"""The errors by which parsers refuse an input."""
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}},
}

Parser = Callable[[bytes], object]


def text(parse: Callable[[str], object]) -> Parser:
    """Return a parser of bytes for one of text; other bytes are refused before it sees them."""
    return lambda data: parse(data.decode("utf-8", "replace"))


def file(read: Callable[[Path], object], suffix: str) -> Parser:
    """Return a parser of bytes for one of files."""

    def parse(data: bytes) -> object:
        with tempfile.NamedTemporaryFile(suffix=suffix) as made:
            made.write(data)
            made.flush()
            return read(Path(made.name))

    return parse


def quantity(data: str) -> object:
    for parse in (parse_duration, parse_size):
        try:
            parse(data)
        except ValueError:
            continue
    return None


def dialects(data: bytes) -> object:
    """Parse a body as each dialect's routes do, and translate it."""
    from ollmlx_ollama_api.bodies import ChatBody, GenerateBody
    from ollmlx_openai_api.chat_request import ChatRequest

    value, found = parse_json(data), []
    for body in (ChatBody, GenerateBody, ChatRequest):
        try:
            found.append(body.model_validate(value).to_vocabulary())
        except EXPECTED:
            continue
    return found


def masked(data: str) -> str:
    shown = escape_text(mask_text(data))
    assert not set(shown) & {*map(chr, (*range(9), 27, *range(0x7F, 0xA0)))}
    return shown


def go_template(data: str) -> str:
    """Parse a template of Go's language, and make the prompt of a conversation with it."""
    call = {"function": {"name": "weather", "arguments": {"city": "Bonn"}}}
    answer: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [call]}
    turns: list[dict[str, Any]] = [{"role": "user", "content": "x"}, answer]
    return GoChatTemplate(data).render(turns, tools=(TOOL,), think=True)


PARSERS: dict[str, Parser] = {
    "gguf": file(lambda path: read_gguf_header(path, here=True), ".gguf"),
    "safetensors": file(read_safetensors_header, ".safetensors"),
    "gotemplate": text(go_template),
    "json": parse_json,
    "dialects": dialects,
    "modelfile": text(parse_modelfile),
    "name": text(lambda data: (ModelName.parse(data), parse_digest(data))),
    "address": text(Address.parse),
    "quantity": text(quantity),
    "event": decode_event,
    "request": GenerateRequest.model_validate_json,
    "calls": text(lambda data: find_calls(data, OfferedTools((TOOL,)))),
    "mended": text(read_json),
    "masked": text(masked),
}


def replay(name: str, data: bytes) -> None:
    """Parse one input. Raises whatever is not a refusal."""
    try:
        PARSERS[name](data)
    except EXPECTED:
        return
