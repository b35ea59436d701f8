"""`POST /v1/responses`: the body, which has the whole conversation, and its translation into a request. Pure."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Literal

from pydantic import Field

from ollmlx.errors import InvalidRequest
from ollmlx.types import GenerateRequest, Message, Options
from ollmlx_openai_api.chat_request import (
    OpenAIBody,
    Reasoning,
    Temperature,
    allowed,
    among,
    response_format,
    think,
    tool_choice,
)
from ollmlx_openai_api.responses_items import InputItem, ItemConversation
from ollmlx_openai_api.responses_tools import ResponseTools

logger = logging.getLogger(__name__)

LOGPROBS = "message.output_text.logprobs"


class TextFormat(OpenAIBody):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class TextConfig(OpenAIBody):
    format: TextFormat = TextFormat()


class ResponsesRequest(OpenAIBody):
    """The whole body."""

    model: str
    input: str | tuple[InputItem, ...]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Temperature = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    include: tuple[str, ...] = ()
    stream: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    reasoning: Reasoning = Reasoning()
    text: TextConfig = TextConfig()
    truncation: Literal["auto", "disabled"] = "disabled"
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool = False
    metadata: dict[str, Any] = {}

    def to_vocabulary(self) -> GenerateRequest:
        """Translate the body into a request. Raises InvalidRequest when it refers to an earlier response."""
        if self.previous_response_id is not None or self.conversation is not None:
            raise InvalidRequest("previous_response_id and conversation are not supported: send the whole conversation")
        if self.background:
            raise InvalidRequest("background responses are not supported")
        limit = {} if self.max_output_tokens is None else {"num_predict": self.max_output_tokens}
        wanted, effort = self.text.format, self.reasoning.effort
        tools = self.response_tools()
        choice, names = allowed(self.tool_choice)
        if tools.skipped:
            logger.info("responses: tools that nothing here can run are not offered: %s", ", ".join(tools.skipped))
        offered = among(tools.offered, names, tools.client_name)
        wanted_tool = tools.offered_choice(tool_choice(choice))
        if wanted_tool == "required" and len(offered) == 1:
            wanted_tool = offered[0]["function"]["name"]
        return GenerateRequest(
            messages=self._conversation(tools),
            tools=offered,
            tool_choice=wanted_tool,
            grammars=tools.grammars,
            parallel_tool_calls=self.parallel_tool_calls,
            think=None if effort is None else think(effort),
            max_thinking_tokens=self.reasoning.max_tokens,
            format=response_format(wanted.type, wanted.schema_, "text.format.schema"),
            options=Options.model_validate({"temperature": self.temperature, "top_p": self.top_p, **limit}),
            top_logprobs=self.top_logprobs if self.top_logprobs or LOGPROBS in self.include else None,
            truncate=self.truncation == "auto",
            shift=self.truncation == "auto",
        )

    def response_tools(self) -> ResponseTools:
        """Return the tools, with those that stand among the items. Blocks for a new grammar. Raises InvalidRequest."""
        items = () if isinstance(self.input, str) else self.input
        return ResponseTools([*self.tools, *(tool for item in items for tool in item.tools)])

    def _conversation(self, tools: ResponseTools) -> tuple[Message, ...]:
        system = (Message(role="system", content=self.instructions),) if self.instructions else ()
        if isinstance(self.input, str):
            return (*system, Message(role="user", content=self.input))
        conversation = ItemConversation(tools)
        for item in self.input:
            conversation.add(item)
        if not conversation.turns:
            raise InvalidRequest("input must not be empty")
        if skipped := conversation.skipped:
            logger.info("responses: items that mean nothing here are passed over: %s", ", ".join(skipped))
        return (*system, *conversation.turns)
