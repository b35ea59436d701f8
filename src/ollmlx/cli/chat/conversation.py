"""The conversation of a chat: its turns, its options, and the requests made from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from ollmlx.cli.answer import StreamedAnswer
from ollmlx.cli.client import Json
from ollmlx.errors import InvalidRequest
from ollmlx.types import Options

HIDDEN = {"logit_bias"}  # too long to type


@dataclass
class Conversation:
    """The state of one chat. `options`: the options that the user set."""

    model: str
    system: str | None = None
    messages: list[Json] = field(default_factory=list)
    options: Json = field(default_factory=dict)
    format: Any = None
    think: bool | str | None = None
    keep_alive: str | float | None = None

    def request(self) -> Json:
        """Return the body of the next /api/chat request."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        body: Json = {"model": self.model, "messages": [*system, *self.messages]}
        stated = {"options": self.options or None, "format": self.format, "keep_alive": self.keep_alive}
        stated["think"] = self.think
        return body | {key: value for key, value in stated.items() if value is not None}

    def saved(self, name: str) -> Json:
        """Return the body of the /api/create request that saves this chat as a model."""
        body: Json = {"model": name, "from": self.model, "stream": True}
        stated = {"system": self.system, "parameters": self.options, "messages": self.messages}
        return body | {key: value for key, value in stated.items() if value}

    def add_question(self, text: str) -> None:
        """Add the user's turn."""
        self.messages.append({"role": "user", "content": text})

    def add_answer(self, answer: StreamedAnswer) -> None:
        """Add the model's turn. If the answer was interrupted before its first word, remove the question instead."""
        if not answer.text and not answer.tool_calls and not answer.final:
            self.remove_question()
            return
        turn: Json = {"role": "assistant", "content": answer.text}
        if answer.thinking:
            turn["thinking"] = answer.thinking
        if answer.tool_calls:
            turn["tool_calls"] = answer.tool_calls
        self.messages.append(turn)

    def remove_question(self) -> None:
        """Remove a question without an answer, so that the turns alternate."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.messages.pop()

    def parameters(self) -> Iterator[tuple[str, str]]:
        """Yield the options that the user set, as they are written; each item of a list."""
        for name, value in self.options.items():
            for item in value if isinstance(value, list) else [value]:
                yield name, json.dumps(item, ensure_ascii=False)

    def set_parameter(self, name: str, values: list[str]) -> None:
        """Set one option from its words. Raises InvalidRequest for an unknown name or a bad value."""
        if name not in Options.model_fields or name in HIDDEN:
            known = ", ".join(sorted(set(Options.model_fields) - HIDDEN))
            raise InvalidRequest(f"unknown parameter {name!r}", hint=f"known: {known}")
        try:
            options = Options.model_validate({name: values if name == "stop" else " ".join(values)})
        except ValidationError as error:
            raise InvalidRequest(f"parameter {name!r}: {error.errors()[0]['msg']}") from error
        self.options[name] = options.model_dump(mode="json")[name]
