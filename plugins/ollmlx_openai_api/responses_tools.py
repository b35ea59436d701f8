"""The tools of `/v1/responses`: functions for the model, and what a call of one is for the client. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from ollmlx import run_limited
from ollmlx.errors import InvalidRequest
from ollmlx.types import Tool

SHELL = "local_shell"
LONGEST_GRAMMAR = 64 * 1024
_SHELL_PARAMETERS = {
    "type": "object",
    "properties": {
        "command": {"type": "array", "items": {"type": "string"}, "description": "the program and its arguments"},
        "working_directory": {"type": "string"},
        "timeout_ms": {"type": "integer"},
    },
    "required": ["command"],
}


@dataclass(frozen=True)
class ClientTool:
    """A tool as its client knows it; `kind` is the type of its definition."""

    kind: Literal["function", "custom", "local_shell"]
    name: str
    namespace: str | None = None


class ResponseTools:
    """The tools of one request. `offered` are functions, each under a name that belongs to no other tool.

    A tool of a namespace is offered as `NAMESPACE__NAME`. A freeform tool is a function with one string, `input`;
    `grammars` are those of freeform tools, in Lark, by the names that are offered. `skipped` are the types of tools
    that are not offered: they run on OpenAI's servers, or are unknown.
    """

    def __init__(self, definitions: Iterable[dict[str, Any]]) -> None:
        """Raises InvalidRequest for a malformed definition."""
        given = list(definitions)
        self.offered: list[Tool] = []
        self.skipped: list[str] = []
        self.grammars: dict[str, str] = {}
        self._known: dict[str, ClientTool] = {}
        self._taken = {str(definition.get("name")) for definition in given}
        for definition in given:
            self._add(definition, None)

    def client_tool(self, name: str) -> ClientTool:
        """Return the tool that the model called by this name; one that was not offered is a plain function."""
        return self._known.get(name, ClientTool("function", name))

    def offered_name(self, name: str, namespace: str | None) -> str:
        """Return the model's name of a tool that the client names."""
        if namespace is None:
            return name
        wanted = (name, namespace)
        found = (ours for ours, tool in self._known.items() if (tool.name, tool.namespace) == wanted)
        return next(found, _flat(name, namespace))

    def client_name(self, tool: Tool) -> str:
        """Return the client's name of an offered tool."""
        return self._known[tool["function"]["name"]].name

    def offered_choice(self, choice: str) -> str:
        """Return the model's name for a tool that must be called; other choices as they are."""
        if choice in self._known:
            return choice
        return next((ours for ours, tool in self._known.items() if tool.name == choice), choice)

    def _add(self, definition: dict[str, Any], namespace: str | None) -> None:
        match definition.get("type"):
            case "function":
                parameters = definition.get("parameters")
                self._offer(ClientTool("function", _name(definition), namespace), definition, parameters)
            case "custom":
                description, grammar = _freeform(definition)
                described = {"description": description}
                parameters = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
                name = self._offer(ClientTool("custom", _name(definition), namespace), described, parameters)
                if grammar is not None:
                    self.grammars[name] = grammar
            case "local_shell":
                described = {"description": "Run a command on the user's computer and return its output."}
                self._offer(ClientTool("local_shell", SHELL, namespace), described, _SHELL_PARAMETERS)
            case "namespace" if namespace is None:
                for inner in _members(definition):
                    self._add(inner, _name(definition))
            case str() as kind:
                self.skipped.append(kind)
            case other:
                raise InvalidRequest(f"tools: {other!r} is not a type")

    def _offer(self, tool: ClientTool, definition: dict[str, Any], parameters: Any) -> str:
        """Offer a function for a tool; return its name."""
        name = tool.name
        if tool.namespace is not None:
            name = _flat(tool.name, tool.namespace)
            while name in self._taken:
                name += "_"
            self._taken.add(name)
        self._known[name] = tool
        stated = {"description": definition.get("description"), "parameters": parameters}
        function = {"name": name, **{key: value for key, value in stated.items() if value is not None}}
        if definition.get("strict") is True:
            function["strict"] = True
        self.offered.append({"type": "function", "function": function})
        return name


def _flat(name: str, namespace: str) -> str:
    return f"{namespace.rstrip('_')}__{name}"


def _name(definition: dict[str, Any]) -> str:
    name = definition.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"tools: a {definition['type']} needs a name")
    return name


def _members(definition: dict[str, Any]) -> list[dict[str, Any]]:
    members = definition.get("tools")
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        raise InvalidRequest("tools: a namespace needs a list of tools")
    return members


def _freeform(definition: dict[str, Any]) -> tuple[str, str | None]:
    """Return the description of a freeform tool, and the Lark grammar of its input, None when that is any text.

    The description has the grammar, so that the model knows it where it is free to call the tool or not.
    """
    description = definition.get("description") or ""
    wanted = definition.get("format") or {"type": "text"}
    if not isinstance(description, str) or not isinstance(wanted, dict):
        raise InvalidRequest("tools: a custom tool has a description and a format")
    if wanted.get("type") != "grammar":
        return description, None
    syntax, grammar = wanted.get("syntax"), wanted.get("definition")
    if syntax not in ("lark", "regex") or not isinstance(grammar, str):
        raise InvalidRequest("tools: a grammar needs a syntax, lark or regex, and a definition")
    stated = f"{description}\n\nThe input must match this {syntax} grammar:\n{grammar}".strip()
    return stated, _as_lark(syntax, grammar)


@lru_cache(maxsize=64)
def _as_lark(syntax: str, grammar: str) -> str:
    """Return the grammar in Lark. Raises InvalidRequest, with the line, for one that does not compile. Blocks."""
    if len(grammar) > LONGEST_GRAMMAR:
        raise InvalidRequest(f"tools: a grammar has more than {LONGEST_GRAMMAR} characters")
    return run_limited(_compile, syntax, grammar, what=f"tools: the {syntax} grammar")


def _compile(syntax: str, grammar: str) -> str:
    """Compile in a helper process: a grammar can make llguidance work for hours."""
    from llguidance import LLMatcher

    try:
        if syntax == "regex":
            grammar = json.loads(LLMatcher.grammar_from_regex(grammar))["grammars"][0]["lark_grammar"]
        fault = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar))
    except (ValueError, TypeError) as error:
        fault = str(error)
    if fault:
        raise InvalidRequest(f"tools: the {syntax} grammar does not compile: {fault.strip()[:1000]}")
    return grammar
