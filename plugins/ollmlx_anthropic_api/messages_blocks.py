"""The blocks of `/v1/messages`, and the translation of turns made of them into messages. Pure, but for PDF files."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ollmlx.errors import InvalidRequest
from ollmlx.types import Message, ToolCall
from ollmlx.web import JsonBody
from ollmlx_anthropic_api.pdf import pdf_text

logger = logging.getLogger(__name__)

PDF = "application/pdf"
BLOCKS = ("text", "thinking", "redacted_thinking", "image", "document", "search_result", "tool_use", "tool_result")


class AnthropicBody(JsonBody):
    """A body of Anthropic's dialect, or a part of one."""


class BlockSource(AnthropicBody):
    """The location of an image or a document: `data` in base64 or as text, `content` as text or blocks, or an image's
    address."""

    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    content: str | tuple[Block, ...] | None = None


class Block(AnthropicBody):
    """A block of content; its type decides which fields count. Of a type that is not in BLOCKS, no field counts."""

    type: Annotated[str, Field(json_schema_extra={"enum": list(BLOCKS)})]
    text: str = ""
    thinking: str = ""
    source: BlockSource | str | None = None
    title: str = ""
    context: str = ""
    id: str | None = None
    name: str = ""
    input: dict[str, Any] = {}
    tool_use_id: str | None = None
    content: str | tuple[Block, ...] = ""
    is_error: bool = False

    @model_validator(mode="before")
    @classmethod
    def _only_the_type_of_others(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(kind := data.get("type"), str) and kind not in BLOCKS:
            return {"type": kind}
        return data


class Turn(AnthropicBody):
    role: Literal["user", "assistant", "system"]
    content: str | tuple[Block, ...]


def text_of(content: str | tuple[Block, ...]) -> str:
    """Return the text of a system prompt, a document or a search result. Raises InvalidRequest for an image in it."""
    text, images = _content(content)
    if images:
        raise InvalidRequest("images are not supported here")
    return text


def messages(turns: tuple[Turn, ...]) -> Iterator[Message]:
    names: dict[str, str] = {}
    for turn in turns:
        yield from _turn(turn, names)


def _turn(turn: Turn, names: dict[str, str]) -> list[Message]:
    """Translate a turn into messages: first the tool results, then the text beside them."""
    if isinstance(turn.content, str):
        return [Message(role=turn.role, content=turn.content)]
    results, said, thoughts, calls = [], [], [], []
    for block in turn.content:
        match block.type:
            case "thinking":
                thoughts.append(block.thinking)
            case "tool_use":
                calls.append(ToolCall(name=block.name, arguments=block.input, id=block.id))
                names[block.id or ""] = block.name
            case "tool_result":
                results.append(_result(block, names))
            case _:
                said.append(block)
    text, images = _content(tuple(said))
    if not (said or thoughts or calls) and results:
        return results
    thinking = "\n".join(thoughts) or None
    message = Message(role=turn.role, content=text, thinking=thinking, images=images, tool_calls=tuple(calls))
    return [*results, message]


def _result(block: Block, names: dict[str, str]) -> Message:
    text, images = _content(block.content)
    return Message(
        role="tool",
        content=f"Error: {text}" if block.is_error else text,
        images=images,
        tool_name=names.get(block.tool_use_id or ""),
        tool_call_id=block.tool_use_id,
    )


def _content(content: str | tuple[Block, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the text and the images of blocks. Blocks of other types are passed over, with a line in the log."""
    if isinstance(content, str):
        return content, ()
    texts, images, others = [], [], []
    for block in content:
        match block.type:
            case "text":
                texts.append(block.text)
            case "image":
                images.append(_image(block))
            case "document":
                texts.append(_document(block))
            case "search_result":
                source = block.source if isinstance(block.source, str) else ""
                texts.append("\n".join(filter(None, (block.title, source, text_of(block.content)))))
            case "redacted_thinking":
                continue
            case other:
                others.append(other)
    if others:
        logger.info("messages: blocks that mean nothing here are passed over: %s", ", ".join(others))
    return "\n".join(texts), tuple(images)


def _image(block: Block) -> str:
    source = block.source
    if isinstance(source, BlockSource) and source.type == "url" and source.url:
        return source.url
    if not isinstance(source, BlockSource) or source.type != "base64" or not source.data:
        raise InvalidRequest("messages: images must be base64 or url sources")
    return source.data


def _document(block: Block) -> str:
    """Return the text of a document, after its title and its context."""
    source = block.source
    if not isinstance(source, BlockSource):
        raise InvalidRequest("messages: a document needs a source")
    if source.type == "content" and source.content is not None:
        text = text_of(source.content)
    elif source.type == "text" and source.data is not None:
        text = source.data
    elif source.type == "base64" and source.media_type == PDF and source.data is not None:
        text = pdf_text(_bytes(source.data))
    elif source.type == "base64" and (source.media_type or "").startswith("text/") and source.data is not None:
        text = _decoded(source.data)
    else:
        kind = source.media_type or source.type
        raise InvalidRequest(f"messages: documents must be text: one of {kind!r} cannot be read here")
    return "\n".join(filter(None, (block.title, block.context, text)))


def _bytes(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise InvalidRequest(f"messages: a document is not in base64: {error}") from error


def _decoded(data: str) -> str:
    try:
        return _bytes(data).decode()
    except ValueError as error:
        raise InvalidRequest(f"messages: a document is not text in base64: {error}") from error


def has_pdf(content: str | tuple[Block, ...]) -> bool:
    """Return whether there is a PDF document among the blocks, or in the results among them."""
    return not isinstance(content, str) and any(
        (isinstance(block.source, BlockSource) and block.source.media_type == PDF) or has_pdf(block.content)
        for block in content
    )
