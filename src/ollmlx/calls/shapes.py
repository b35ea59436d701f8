"""The shapes in which models write a tool call, other than the one that their template asks for.

A text is read as calls only when all of it is calls: JSON (bare, in a code fence, in the tags of any model family, with
doubled braces), functions with parameters in tags, or Python calls; and only of tools that the request offers.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
from collections.abc import Iterator
from typing import Any, Final

from ollmlx.calls.mending import LONGEST_PYTHON, BrokenJson, no_constant, read_json, read_python
from ollmlx.calls.schema import OfferedTools
from ollmlx.types import ToolCall

NAME_KEYS: Final = ("name", "function", "function_name", "tool", "tool_name", "recipient_name", "action")
ARGUMENT_KEYS: Final = ("arguments", "parameters", "args", "input", "action_input", "params", "kwargs")
OTHER_KEYS: Final = ("id", "type", "call_id", "tool_call_id", "index", "tool_calls", "function_call")
CALL_TYPES: Final = ("function", "function_call", "tool_call", "tool_use")
"""Values of `type` beside a call."""
OPENERS: Final = (
    "<tool_call>", "<tool_calls>", "<tools>", "<tool>", "<function_call>", "<function_calls>", "<functioncall>",
    "<tool_code>", "<call>", "<json>", "<|tool_call|>", "<|tool_calls|>", "<|tool_call_begin|>", "<|python_tag|>",
    "[TOOL_CALLS]", "[TOOL_REQUEST]", "<function-call>", "<action>", "functools",
)  # fmt: skip
"""Tags with which model families open a call. What closes it is the tag with a slash, or `CLOSING`."""
CLOSING: Final = re.compile(
    r"(?:</[\w-]+>|<\|/?tool_calls?(?:_end)?\|>|\[END_TOOL_REQUEST\]|<\|eom_id\|>|<\|im_end\|>|\s|;|,)*"
)
FENCES: Final = ("json", "tool_call", "tool_code", "tool", "python", "py", "xml", "javascript", "jsonc", "")
_BETWEEN: Final = re.compile(f"(?:{CLOSING.pattern[:-1]}+|{'|'.join(map(re.escape, OPENERS))})+")
_FENCE: Final = re.compile(r"```([\w+-]*)[ \t]*\n?")
_FUNCTION: Final = re.compile(r"<(?:function|invoke)(?:=|\s+name=)[\"']?([^\s\"'>]+)[\"']?>")
_PARAMETER: Final = re.compile(r"<parameter(?:=|\s+name=)[\"']?([^\s\"'>]+)[\"']?>\n?(.*?)\n?</parameter>", re.DOTALL)
_NAMED: Final = re.compile(r"([\w.:/-]+)(?:\[ARGS\])?\s*(?=\{)")
_CALL_HEAD: Final = re.compile(
    r"""[\s{\[]*(?:"(?:id|type)"\s*:\s*"[^"]*"\s*,\s*)*"(?:"""
    + "|".join(NAME_KEYS)
    + r""")"\s*:\s*(?:\{\s*"name"\s*:\s*)?"([^"]+)\""""
)

Found = tuple[str, dict[str, Any]]


class NoCall(ValueError):
    """The text is no call of an offered tool."""


class UnreadableCall(ValueError):
    """The text is evidently a call of an offered tool, and cannot be used; the message says why."""


def find_calls(text: str, tools: OfferedTools) -> list[ToolCall]:
    """Return the calls that the whole text consists of. Raises NoCall, or UnreadableCall for a broken one."""
    found: list[Found] = []
    try:
        for body in _bodies(text):
            found += _read_body(body, tools)
    except BrokenJson as error:
        name = called_name(text)
        if name is None or name not in tools:
            raise NoCall from error
        raise UnreadableCall(f"the call of {name} is not valid JSON: {error}") from error
    if not found:
        raise NoCall
    for name, arguments in found:
        if (fault := tools.fault(name, arguments)) is not None:
            raise UnreadableCall(f"the arguments of {name} do not fit its parameters: {fault}")
    return [ToolCall(name=name, arguments=arguments, id=call_id()) for name, arguments in found]


def call_id() -> str:
    """Return a fresh id of a call."""
    return f"call_{secrets.token_hex(4)}"


def called_name(text: str) -> str | None:
    """Return the name of the function that a broken call names, None when it is not seen to be a call."""
    body = next(_bodies(text), "")
    found = _CALL_HEAD.match(body) or _FUNCTION.match(body) or (_NAMED.match(body) if body != text.strip() else None)
    return found.group(1) if found else None


def _bodies(text: str) -> Iterator[str]:
    """Yield the parts of the text between code fences and tags. What stands outside of them is a part, too."""
    rest = text.strip()
    while rest:
        if opening := _FENCE.match(rest):
            inside, _, rest = rest[opening.end() :].partition("```")
            rest = rest.strip()
            yield from _bodies(inside) if opening.group(1) in FENCES else iter((inside,))
            continue
        tag = next((opener for opener in OPENERS if rest.startswith(opener)), None)
        if tag is None:
            yield rest
            return
        rest = rest[len(tag) :].lstrip()
        end = re.compile(re.escape("</" + tag[1:])).search(rest) if tag.startswith("<") else None
        if end is None:
            continue
        inside, rest = rest[: end.start()].strip(), rest[end.end() :].strip()
        yield from _bodies(inside)


def _read_body(body: str, tools: OfferedTools) -> list[Found]:
    """Return the calls in one part. Raises NoCall, BrokenJson."""
    body = body.strip()
    if _FUNCTION.match(body):
        return list(_functions_in_tags(body, tools))
    if body[:1] in ("{", "["):
        try:
            return [call for value in _values(body) for call in _calls_in(value, tools)]
        except BrokenJson:
            if body.startswith("[") and (found := _python_calls(body, tools)):
                return found
            raise
    if (named := _NAMED.match(body)) and named.group(1).removeprefix("functions.") in tools:
        arguments = read_json(CLOSING.sub("", body[named.end() :]) if body.endswith(">") else body[named.end() :])
        return [(named.group(1).removeprefix("functions."), read_arguments(arguments))]
    if found := _python_calls(body, tools):
        return found
    raise NoCall


# -- JSON ------------------------------------------------------------------------------------------------------------


def _values(body: str) -> list[Any]:
    """Return the JSON values of a text, which stand one after another. Raises BrokenJson."""
    body = _without_closing(body)
    try:
        return [read_json(body)]
    except BrokenJson as error:
        fault = error
    decoder, at = json.JSONDecoder(strict=False, parse_constant=no_constant), 0
    values: list[Any] = []
    while at < len(body):
        try:
            value, at = decoder.raw_decode(body, at)
        except (ValueError, RecursionError) as error:
            if values and not isinstance(error, BrokenJson) and body[at] not in "{[":
                raise NoCall from None  # a sentence follows
            raise fault from None
        values.append(value)
        if gap := _BETWEEN.match(body, at):
            at = gap.end()
    return values


def _without_closing(body: str) -> str:
    """Return the text without the tags and marks that close a call at its end."""
    end = len(body)
    while closing := re.search(r"(?:</[\w-]+>|<\|[\w/]+\|>|\[END_TOOL_REQUEST\]|```|;|\s)$", body[:end]):
        end = closing.start()
    return body[:end]


def _calls_in(value: Any, tools: OfferedTools) -> Iterator[Found]:
    """Yield the calls that a JSON value stands for. Raises NoCall when any part of it is something else."""
    if isinstance(value, list) and value:
        for each in value:
            yield from _calls_in(each, tools)
        return
    if not isinstance(value, dict):
        raise NoCall
    wrapped = value.get("tool_calls", value.get("function_call"))
    if isinstance(wrapped, (list, dict)):
        yield from _calls_in(wrapped, tools)
        return
    inner = value.get("function")
    yield _call_in({**value, **inner} if isinstance(inner, dict) else value, tools)


def _call_in(value: dict[str, Any], tools: OfferedTools) -> Found:
    name = next((value[key] for key in NAME_KEYS if isinstance(value.get(key), str) and key in value), None)
    if name is None and len(value) == 1:
        name, arguments = next(iter(value.items()))
        if name in tools and isinstance(arguments, dict):
            return name, arguments
    name = name.removeprefix("functions.") if isinstance(name, str) else None
    if name not in tools or name is None:
        raise NoCall
    stated = [key for key in ARGUMENT_KEYS if key in value]
    if not stated and set(value) - {*NAME_KEYS, *OTHER_KEYS}:
        raise NoCall  # an object that happens to have a name
    if not stated and tools.fault(name, {}) is not None:
        raise NoCall
    return name, read_arguments(value[stated[0]] if stated else {})


def read_arguments(given: Any) -> dict[str, Any]:
    """Return the arguments of a call, which may be JSON in a text. Raises BrokenJson."""
    if isinstance(given, str):
        given = read_json(given) if given.strip() else {}
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BrokenJson("the arguments are no object")
    return given


# -- tags and Python -------------------------------------------------------------------------------------------------


def _functions_in_tags(body: str, tools: OfferedTools) -> Iterator[Found]:
    """Yield the calls in `<function=NAME>`: JSON, or parameters in tags, whose values are texts or JSON."""
    starts = list(_FUNCTION.finditer(body))
    for start, after in zip(starts, [*starts[1:], None], strict=True):
        name = start.group(1)
        if name not in tools:
            raise NoCall
        inside = body[start.end() : after.start() if after else len(body)]
        inside = re.split(r"</(?:function|invoke)>", inside)[0].strip()
        if inside.startswith("{"):
            yield name, read_arguments(read_json(_without_closing(inside)))
            continue
        if _PARAMETER.sub("", inside).strip():
            raise BrokenJson("a parameter is not closed")
        yield name, {key: _typed(text, tools, name, key) for key, text in _PARAMETER.findall(inside)}


def _typed(text: str, tools: OfferedTools, name: str, key: str) -> Any:
    """Return the value of a parameter: a text, unless only another type fits."""
    if tools.takes_text(name, key):
        return text
    try:
        return read_json(text) if text[:1] in ("{", "[") else json.loads(text)
    except (ValueError, RecursionError):
        return text


def _python_calls(body: str, tools: OfferedTools) -> list[Found]:
    """Return the calls in Python's syntax: one, several lines, or a list of them; empty for anything else."""
    if len(body) > LONGEST_PYTHON or "(" not in body or not _mentions(body, tools):
        return []
    try:
        tree = ast.parse(body.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return []
    found: list[Found] = []
    for statement in tree.body:
        value = statement.value if isinstance(statement, ast.Expr) else None
        for node in value.elts if isinstance(value, ast.List) else [value]:
            call = _python_call(node, tools)
            if call is None:
                return []
            found.append(call)
    return found


def _mentions(body: str, tools: OfferedTools) -> bool:
    return any(f"{name}(" in body for name in tools.names)


def _python_call(node: ast.AST | None, tools: OfferedTools) -> Found | None:
    if not isinstance(node, ast.Call):
        return None
    name = ast.unparse(node.func).removeprefix("functions.").removeprefix("default_api.")
    if name == "print" and len(node.args) == 1:  # as Gemma writes calls
        return _python_call(node.args[0], tools)
    if name not in tools:
        return None
    try:
        positional = [read_python(argument) for argument in node.args]
        stated = {word.arg: read_python(word.value) for word in node.keywords if word.arg}
    except BrokenJson:
        return None
    known = tools.parameters(name)
    if len(positional) > len(known) or len(stated) < len(node.keywords):
        return None
    return name, {**dict(zip(known, positional, strict=False)), **stated}
