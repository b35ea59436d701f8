"""Conversations as the data of Ollama's templates: `.Messages`, or rounds of `.System`, `.Prompt` and `.Response`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ollmlx.gotemplate import nodes
from ollmlx.gotemplate.evaluation import execute
from ollmlx.gotemplate.parser import ParsedTemplate, parse
from ollmlx.gotemplate.values import JsonList, JsonMap, Record

Turn = Mapping[str, Any]
_RESPONSE: Final = nodes.Action(nodes.Pipeline((nodes.CommandNode((nodes.FieldPath(("Response",), 0),), 0),), 0))


class GoChatTemplate:
    """A parsed template, and what it uses. Raises InvalidRequest for one that cannot be parsed."""

    def __init__(self, source: str) -> None:
        self._template = parse(source)
        self.names = frozenset(_names_in(self._template))
        """The fields that the template uses, in lower case, such as `tools`, `suffix`, `thinking`."""
        if not self.names & {"messages", "response"}:
            self._template.root += (_RESPONSE,)

    def render(
        self, turns: Sequence[Turn], *, tools: Sequence[Mapping[str, Any]] = (), think: bool | str | None = None
    ) -> str:
        """Return the prompt of a conversation. An assistant's turn at its end is left open. Raises InvalidRequest."""
        level = think if isinstance(think, str) else ""
        shared = {"Think": bool(think), "ThinkLevel": level, "IsThinkSet": think is not None}
        system, merged = _merged(turns)
        if "messages" in self.names:
            data = {"System": system, "Messages": [_message(turn) for turn in merged], "Response": "", **shared}
            return execute(self._template, {**data, "Tools": JsonList(_tool(tool) for tool in tools)})
        *whole, last = list(_rounds(merged)) or [{}]
        texts = [execute(self._template, {**_EMPTY, **each, **shared}) for each in whole]
        opened = ParsedTemplate(_before_the_answer(self._template.root)[0], self._template.defined)
        return "".join((*texts, execute(opened, {**_EMPTY, **last, **shared})))

    def fill(self, prompt: str, suffix: str) -> str:
        """Return the prompt that asks for the text between two others. Raises InvalidRequest."""
        data = {"Prompt": prompt, "Suffix": suffix, "Response": "", "Think": False, "IsThinkSet": False}
        return execute(self._template, {**data, "ThinkLevel": ""})


_EMPTY: Final = {"System": "", "Prompt": "", "Response": ""}


def _merged(turns: Iterable[Turn]) -> tuple[str, list[dict[str, Any]]]:
    """Return the system's texts, and the turns: neighbours of the same role are one, but for the results of tools."""
    system: list[str] = []
    found: list[dict[str, Any]] = []
    for turn in turns:
        text = _text(turn.get("content"))
        if turn["role"] == "system":
            system.append(text)
        if found and found[-1]["role"] == turn["role"] != "tool":
            last = found[-1]
            last["content"] = "\n\n".join(filter(None, (last["content"], text)))
            last["tool_calls"] = [*last.get("tool_calls", ()), *turn.get("tool_calls", ())]
        else:
            found.append({**turn, "content": text})
    return "\n\n".join(system), found


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _rounds(turns: Iterable[Turn]) -> Iterator[dict[str, str]]:
    """Yield the rounds of a conversation for templates that know only one; the last is still to be answered."""
    now: dict[str, str] = {}
    for turn in turns:
        role, text = turn["role"], turn["content"]
        ends = ("Prompt", "Response") if role == "system" else ("Response",) if role != "assistant" else ()
        if any(now.get(part) for part in ends):
            yield now
            now = {}
        now[{"system": "System", "assistant": "Response"}.get(role, "Prompt")] = text
    yield now


def _message(turn: Turn) -> Record:
    calls = [_call(call) for call in turn.get("tool_calls", ())]
    thinking = turn.get("reasoning_content") or turn.get("thinking") or ""
    fields = {
        "Role": turn["role"], "Content": turn["content"], "Thinking": thinking, "Images": [], "ToolCalls": calls,
        "ToolName": turn.get("name", ""), "ToolCallID": turn.get("tool_call_id", ""),
    }  # fmt: skip
    return Record(fields, {"role": turn["role"], "content": turn["content"]})


def _call(call: Mapping[str, Any]) -> Record:
    function = call["function"]
    arguments = JsonMap(function["arguments"])
    fields = {"Index": 0, "Name": function["name"], "Arguments": arguments}
    document = {"name": function["name"], "arguments": arguments}
    return Record({"ID": call.get("id", ""), "Function": Record(fields, document)}, {"function": document})


def _tool(tool: Mapping[str, Any]) -> Record:
    function = tool.get("function") or tool
    fields = {
        "Name": function.get("name", ""),
        "Description": function.get("description") or "",
        "Parameters": _schema(function.get("parameters")),
    }
    document = {"type": "function", **tool} if "function" in tool else {"type": "function", "function": dict(tool)}
    return Record({"Type": "function", "Items": None, "Function": Record(fields, dict(function))}, document)


def _schema(value: Any) -> Record:
    """Return a JSON schema as a struct: of parameters, or of one property."""
    schema: Mapping[str, Any] = value if isinstance(value, dict) else {}
    properties = schema.get("properties")
    found = {name: _schema(each) for name, each in properties.items()} if isinstance(properties, dict) else {}
    fields = {
        "Type": schema.get("type") or "", "Description": schema.get("description") or "", "Properties": found,
        "Required": schema.get("required") or [], "Enum": schema.get("enum") or [], "Items": schema.get("items"),
        "Defs": schema.get("$defs"), "AnyOf": [_schema(each) for each in schema.get("anyOf") or ()],
    }  # fmt: skip
    return Record(fields, dict(schema))


# -- what a template uses --------------------------------------------------------------------------------------------


def _names_in(template: ParsedTemplate) -> Iterator[str]:
    for body in (template.root, *template.defined.values()):
        for node in body:
            yield from _names(node)


def _names(node: nodes.Node | nodes.Operand | None) -> Iterator[str]:
    match node:
        case nodes.FieldPath() | nodes.Variable() | nodes.Chain():
            yield from (name.lower() for name in node.names)
            if isinstance(node, nodes.Chain):
                yield from _names(node.inner)
        case nodes.Pipeline():
            for command in node.commands:
                for word in command.words:
                    yield from _names(word)
        case nodes.Action() | nodes.Include():
            yield from _names(node.pipeline)
        case nodes.Branch():
            yield from _names(node.pipeline)
            for inner in (*node.body, *node.otherwise):
                yield from _names(inner)


def _before_the_answer(body: Sequence[nodes.Node]) -> tuple[tuple[nodes.Node, ...], bool]:
    """Return the nodes up to the one that prints the answer, and whether it was found."""
    kept: list[nodes.Node] = []
    for node in body:
        found = False
        if isinstance(node, nodes.Branch):
            inner, found = _before_the_answer(node.body)
            otherwise, also = ((), True) if found else _before_the_answer(node.otherwise)
            node, found = nodes.Branch(node.keyword, node.pipeline, inner, otherwise), found or also
        elif isinstance(node, nodes.Action):
            found = "response" in _names(node)
        kept.append(node)
        if found:
            return tuple(kept), True
    return tuple(kept), False
