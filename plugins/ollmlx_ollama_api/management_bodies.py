"""The bodies of the routes that describe, fetch, make and remove models. Pure."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field

from ollmlx import ModelName
from ollmlx.errors import InvalidRequest
from ollmlx.types import ModelDefaults
from ollmlx_ollama_api.bodies import AsTuple, NamedBody, OllamaBody, OllamaMessage, parse_name
from ollmlx_ollama_api.options import options


class ShowBody(NamedBody):
    """`POST /api/show`."""

    verbose: bool = False


class PullBody(NamedBody):
    """`POST /api/pull` and `/api/push`."""

    stream: bool = True
    insecure: bool = False


class DeleteBody(NamedBody):
    """`DELETE /api/delete`."""

    def deleted_name(self) -> ModelName:
        """Parse the name. Raises InvalidRequest with the sentence of this route."""
        return parse_name(self.asked, f"name {_quoted(self.asked)} is invalid")


class CopyBody(OllamaBody):
    """`POST /api/copy`."""

    source: str = ""
    destination: str = ""

    def names(self) -> tuple[ModelName, ModelName]:
        """Parse source and destination. Raises InvalidRequest."""
        source = parse_name(self.source, f"source {_quoted(self.source)} is invalid")
        return source, parse_name(self.destination, f"destination {_quoted(self.destination)} is invalid")


class CreateBody(NamedBody):
    """`POST /api/create`: `files` and `adapters` map file names to digests of uploaded blobs."""

    from_: str = Field("", alias="from")
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    template: str = ""
    license: Annotated[str | tuple[str, ...], AsTuple] = ""
    system: str = ""
    parameters: dict[str, Any] = {}
    messages: Annotated[tuple[OllamaMessage, ...], AsTuple] = ()
    quantize: str = ""
    stream: bool = True

    def base(self) -> ModelName | None:
        """Return the name of the base model, None when uploaded files are the base. Raises InvalidRequest."""
        if not self.from_ and not self.files:
            raise InvalidRequest("neither 'from' or 'files' was specified")
        return parse_name(self.from_) if self.from_ else None

    def defaults(self) -> ModelDefaults:
        """Return the defaults that are laid over the weights, without the adapter. Raises InvalidRequest."""
        licenses = (self.license,) if isinstance(self.license, str) else self.license
        stated: dict[str, Any] = {"options": options(self.parameters)} if self.parameters else {}
        if self.system:
            stated["system"] = self.system
        if self.template:
            stated["template"] = self.template
        if self.messages:
            stated["messages"] = tuple(message.to_vocabulary() for message in self.messages)
        if any(licenses):
            stated["license"] = tuple(text for text in licenses if text)
        return ModelDefaults(**stated)


def _quoted(name: str) -> str:
    """Quote a refused name for logs and terminals: shortened, with control characters escaped."""
    return json.dumps(name[:120])
