"""The bodies of the routes that manage models. Pure."""

from __future__ import annotations

import json
from typing import Any

from pydantic import Field, field_validator

from ollmlx import ModelName
from ollmlx.errors import InvalidRequest
from ollmlx.types import Message, ModelDefaults
from ollmlx_ollama_api.generation_request import WireMessage
from ollmlx_ollama_api.options import options
from ollmlx_ollama_api.wire import KeepAlive, Named, Wire, parse_name


class ShowBody(Named):
    """`POST /api/show`."""

    verbose: bool = False


class PullBody(Named):
    """`POST /api/pull` and `/api/push`."""

    stream: bool = True
    insecure: bool = False


class DeleteBody(Named):
    """`DELETE /api/delete`."""

    def deleted_name(self) -> ModelName:
        """The parsed name. Raises InvalidRequest with this route's own sentence."""
        return parse_name(self.asked, f"name {_quoted(self.asked)} is invalid")


class CopyBody(Wire):
    """`POST /api/copy`."""

    source: str = ""
    destination: str = ""

    def names(self) -> tuple[ModelName, ModelName]:
        """Source and destination. Raises InvalidRequest."""
        source = parse_name(self.source, f"source {_quoted(self.source)} is invalid")
        return source, parse_name(self.destination, f"destination {_quoted(self.destination)} is invalid")


class CreateBody(Named):
    """`POST /api/create`: `files` and `adapters` map file names to digests of uploaded blobs."""

    from_: str = Field("", alias="from")
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    template: str = ""
    license: str | tuple[str, ...] = ""
    system: str = ""
    parameters: dict[str, Any] = {}
    messages: tuple[WireMessage, ...] = ()
    quantize: str = ""
    stream: bool = True

    @field_validator("license", "messages", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    def base(self) -> ModelName | None:
        """The model it is made over. Raises InvalidRequest."""
        if not self.from_ and not self.files:
            raise InvalidRequest("neither 'from' or 'files' was specified")
        return parse_name(self.from_) if self.from_ else None

    def defaults(self) -> ModelDefaults:
        """What is laid over the weights, the adapter excepted. Raises InvalidRequest."""
        licenses = (self.license,) if isinstance(self.license, str) else self.license
        stated: dict[str, Any] = {"options": options(self.parameters)} if self.parameters else {}
        if self.system:
            stated["system"] = self.system
        if self.template:
            stated["template"] = self.template
        if self.messages:
            stated["messages"] = self._turns()
        if any(licenses):
            stated["license"] = tuple(text for text in licenses if text)
        return ModelDefaults(**stated)

    def _turns(self) -> tuple[Message, ...]:
        return tuple(message.to_vocabulary() for message in self.messages)


class EmbedBody(Named):
    """`POST /api/embed`."""

    input: Any = None
    truncate: bool = True
    dimensions: int | None = None
    keep_alive: KeepAlive | None = None
    options: dict[str, Any] = {}

    def inputs(self) -> tuple[str, ...]:
        """The texts; none for an absent or empty input. Raises InvalidRequest."""
        if self.input is None or self.input == "":
            return ()
        given = [self.input] if isinstance(self.input, str) else self.input
        if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
            raise InvalidRequest("invalid input type")
        return tuple(given)

    def length(self) -> int | None:
        """The dimensions asked for; None for the model's own. Raises InvalidRequest."""
        if self.dimensions is not None and self.dimensions < 0:
            raise InvalidRequest("dimensions must not be negative")
        return self.dimensions or None


class EmbeddingsBody(Named):
    """`POST /api/embeddings`, the older of the two."""

    prompt: str = ""
    keep_alive: KeepAlive | None = None
    options: dict[str, Any] = {}


def _quoted(name: str) -> str:
    """A refused name in quotes, cut, with control characters escaped: it ends up in logs and terminals."""
    return json.dumps(name[:120])
