"""`POST /v1/messages`: the body as Anthropic's clients send it, and its translation into a request. Pure."""

from __future__ import annotations

import logging
import re
from typing import Annotated, Any, Literal

from pydantic import Field

from ollmlx.errors import InvalidRequest
from ollmlx.types import GenerateRequest, Message, Options, Tool
from ollmlx_anthropic_api.messages_blocks import AnthropicBody, Block, Turn, has_pdf, messages, text_of

logger = logging.getLogger(__name__)

Think = bool | Literal["low", "medium", "high", "max"]


class ToolDefinition(AnthropicBody):
    name: str
    description: str = ""
    input_schema: dict[str, Any] = {}
    type: str = "custom"
    strict: bool = False


COMMAND = {"type": "string", "description": "The command to run."}
RESTART = {"type": "boolean", "description": "Restart the shell instead of running a command."}
EDITOR_COMMANDS = ("view", "create", "str_replace", "insert")
OWN_TOOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "bash": (
        "Run a command in a shell that stays open between calls.",
        {"type": "object", "properties": {"command": COMMAND, "restart": RESTART}},
    ),
    "text_editor": (
        "View, create and edit text files. `view` takes `view_range`, `create` `file_text`, `str_replace` `old_str`,"
        " which must occur once, and `new_str`, `insert` `insert_line` and `insert_text`.",
        {
            "type": "object",
            "properties": {
                "command": {"type": "string", "enum": list(EDITOR_COMMANDS)},
                "path": {"type": "string", "description": "Absolute path of the file or folder."},
                "file_text": {"type": "string"},
                "old_str": {"type": "string"},
                "new_str": {"type": "string"},
                "insert_line": {"type": "integer"},
                "insert_text": {"type": "string"},
                "view_range": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["command", "path"],
        },
    ),
}
"""The tools that Anthropic's models know without a schema and that the client runs, by the type without its date."""


def own_tool(tool: ToolDefinition) -> ToolDefinition | None:
    """Return the definition with its schema; None for a tool that Anthropic's servers run."""
    if tool.type == "custom":
        return tool
    description, schema = OWN_TOOLS.get(re.sub(r"_\d{8}$", "", tool.type), ("", {}))
    return tool.model_copy(update={"description": description, "input_schema": schema}) if schema else None


class ToolChoice(AnthropicBody):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool = False


class ThinkingConfig(AnthropicBody):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=0)] | None = None


class OutputConfig(AnthropicBody):
    effort: str = ""
    format: dict[str, Any] | None = None


class ConversationBody(AnthropicBody):
    """The fields that `/v1/messages` and `/v1/messages/count_tokens` share."""

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[tuple[Turn, ...], Field(min_length=1)]
    system: str | tuple[Block, ...] = ""
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: ToolChoice = ToolChoice(type="auto")
    thinking: ThinkingConfig = ThinkingConfig(type="disabled")
    output_config: OutputConfig = OutputConfig()

    @property
    def blocking(self) -> bool:
        """True when the translation of the body waits for another process: it has a PDF document."""
        return has_pdf(self.system) or any(has_pdf(turn.content) for turn in self.messages)

    def conversation(self) -> tuple[Message, ...]:
        """Translate the turns, the system prompt first. Raises InvalidRequest."""
        system = text_of(self.system)
        first = [Message(role="system", content=system)] if system else []
        return (*first, *messages(self.messages))

    def tool_list(self) -> tuple[Tool, ...]:
        """Translate the tools that the client runs. Those that Anthropic's servers run are not offered."""
        known = [(tool, own_tool(tool)) for tool in self.tools]
        if others := [tool.type for tool, found in known if found is None]:
            logger.info("messages: tools that nothing here can run are not offered: %s", ", ".join(others))
        return tuple(_tool(found) for _, found in known if found is not None)


class MessagesRequest(ConversationBody):
    """The whole body of `/v1/messages`."""

    max_tokens: Annotated[int, Field(ge=1)]
    stream: bool = False
    stop_sequences: tuple[str, ...] = ()
    temperature: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] | None = None

    def to_vocabulary(self, *, can_think: bool) -> GenerateRequest:
        """Translate the body into a request. A model that cannot think ignores `thinking`: clients always send it."""
        turns = self.conversation()
        return GenerateRequest(
            messages=turns,
            tools=self.tool_list(),
            tool_choice=_choice(self.tool_choice),
            parallel_tool_calls=not self.tool_choice.disable_parallel_tool_use,
            think=self._think() if can_think else None,
            max_thinking_tokens=self.thinking.budget_tokens if can_think else None,
            format=_format(self.output_config.format),
            options=self._options(),
            truncate=False,
            shift=False,
            continue_last=turns[-1].role == "assistant" and not turns[-1].tool_calls,
        )

    def _think(self) -> Think:
        if self.thinking.type == "disabled":
            return False
        return _EFFORTS.get(self.output_config.effort) or _level(self.thinking.budget_tokens)

    def _options(self) -> Options:
        stated: dict[str, Any] = {"num_predict": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p}
        if self.top_k is not None:
            stated["top_k"] = self.top_k
        if self.stop_sequences:
            stated["stop"] = self.stop_sequences
        return Options.model_validate(stated)


_EFFORTS: dict[str, Think] = {"low": "low", "medium": "medium", "high": "high", "xhigh": "max", "max": "max"}


def _level(budget: int | None) -> Think:
    """Return the level for a budget, in the steps of Anthropic's clients; True when none is stated."""
    if budget is None:
        return True
    return next((level for most, level in _BUDGETS if budget <= most), "high")


_BUDGETS: tuple[tuple[int, Think], ...] = ((4096, "low"), (16384, "medium"))
"""The most tokens of a thought, and the level that stands for them."""


def _choice(choice: ToolChoice) -> str:
    if choice.type == "tool":
        if not choice.name:
            raise InvalidRequest("tool_choice.name: field required")
        return choice.name
    return {"auto": "auto", "any": "required", "none": "none"}[choice.type]


def _format(wanted: dict[str, Any] | None) -> dict[str, Any] | None:
    if wanted is None:
        return None
    schema = wanted.get("schema")
    if wanted.get("type") != "json_schema" or not isinstance(schema, dict):
        raise InvalidRequest("output_config.format: only json_schema with a schema is supported")
    return schema


def _tool(tool: ToolDefinition) -> Tool:
    parameters = tool.input_schema or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function | ({"strict": True} if tool.strict else {})}
