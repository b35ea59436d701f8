"""What a chat has said so far, and how the model is asked to go on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from ollmlx.cli.answer import Answer
from ollmlx.cli.client import Json
from ollmlx.errors import InvalidRequest
from ollmlx.types import Options

HIDDEN = {"logit_bias"}  # not something one types


@dataclass
class Conversation:
    """The state of one chat. `options` holds only what the person set."""

    model: str
    system: str | None = None
    messages: list[Json] = field(default_factory=list)
    options: Json = field(default_factory=dict)
    format: Any = None
    think: bool | str | None = None
    keep_alive: str | float | None = None

    def request(self) -> Json:
        """The body of the next /api/chat."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        body: Json = {"model": self.model, "messages": [*system, *self.messages]}
        stated = {"options": self.options or None, "format": self.format, "keep_alive": self.keep_alive}
        stated["think"] = self.think
        return body | {key: value for key, value in stated.items() if value is not None}

    def saved(self, name: str) -> Json:
        """The body of the /api/create that keeps this chat as a model."""
        body: Json = {"model": name, "from": self.model, "stream": True}
        stated = {"system": self.system, "parameters": self.options, "messages": self.messages}
        return body | {key: value for key, value in stated.items() if value}

    def ask(self, text: str) -> None:
        """Add the person's turn."""
        self.messages.append({"role": "user", "content": text})

    def hear(self, answer: Answer) -> None:
        """Add the model's turn; a turn that was stopped before its first word takes the question with it."""
        if not answer.text and not answer.tool_calls and not answer.final:
            self.unask()
            return
        turn: Json = {"role": "assistant", "content": answer.text}
        if answer.thinking:
            turn["thinking"] = answer.thinking
        if answer.tool_calls:
            turn["tool_calls"] = answer.tool_calls
        self.messages.append(turn)

    def unask(self) -> None:
        """Take back a question that got no answer, so that turns go on alternating."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()

    def parameters(self) -> Iterator[tuple[str, str]]:
        """The options that the person set, as they are written; of lists, each item."""
        for name, value in self.options.items():
            for item in value if isinstance(value, list) else [value]:
                yield name, json.dumps(item, ensure_ascii=False)

    def set_parameter(self, name: str, values: list[str]) -> None:
        """Set one option from its words. Raises InvalidRequest for an unknown name or bad value."""
        if name not in Options.model_fields or name in HIDDEN:
            known = ", ".join(sorted(set(Options.model_fields) - HIDDEN))
            raise InvalidRequest(f"unknown parameter {name!r}", hint=f"known: {known}")
        try:
            options = Options.model_validate({name: values if name == "stop" else " ".join(values)})
        except ValidationError as error:
            raise InvalidRequest(f"parameter {name!r}: {error.errors()[0]['msg']}") from error
        self.options[name] = options.model_dump(mode="json")[name]
