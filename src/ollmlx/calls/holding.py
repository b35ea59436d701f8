"""The beginning of an answer, as long as the whole answer may become a call of an offered tool."""

from __future__ import annotations

import re
from typing import Final

from ollmlx.calls.schema import OfferedTools
from ollmlx.calls.shapes import ARGUMENT_KEYS, CALL_TYPES, CLOSING, FENCES, NAME_KEYS, OPENERS, OTHER_KEYS

_KEY: Final = re.compile(r"""\s*(["'])((?:[^"'\\]|\\.)*)(["']?)""", re.DOTALL)
_TEXT: Final = re.compile(r"""\s*(["'])((?:(?!\1)[^\\]|\\.)*)(\1?)""", re.DOTALL)
_TAGGED: Final = re.compile(r"<(?:function|invoke)(?:=|\s+name=)[\"']?([^\s\"'>]*)")
_TAG_HEADS: Final = ("<function=", "<function name=", "<invoke name=", "<invoke=")
_NAME: Final = re.compile(r"[\w.:/-]*")


def may_become_call(text: str, tools: OfferedTools) -> bool:
    """Return whether an answer that begins with this text may be nothing but calls of these tools."""
    rest = text.lstrip()
    while rest:
        if rest.startswith("```") or "```".startswith(rest):
            language = re.match(r"```([\w+-]*)", rest)
            if language is None or language.end() == len(rest):
                return language is None or any(known.startswith(language.group(1)) for known in FENCES)
            if language.group(1) not in FENCES:
                return False
            rest = rest[language.end() :].lstrip()
            continue
        tag = next((opener for opener in OPENERS if rest.startswith(opener)), None)
        if tag is None:
            return any(opener.startswith(rest) for opener in (*OPENERS, *_TAG_HEADS)) or _body(rest, tools)
        rest = rest[len(tag) :].lstrip()
    return True


def _body(rest: str, tools: OfferedTools) -> bool:
    if rest[0] == "<":
        tagged = _TAGGED.match(rest)
        return tagged is not None and _names(tagged.group(1), tools, whole=tagged.end() < len(rest))
    inside = rest.lstrip("{[ \t\r\n")
    if not inside:
        return True
    if inside[0] in "\"'":
        return rest[0] in "{[" and _object(inside, tools)
    if "{" in rest[: len(rest) - len(inside)]:
        return inside[0] == "}"  # as after `{}`
    name = _NAME.match(inside)
    assert name is not None
    after = inside[name.end() :].lstrip()
    if not after:
        return _names(name.group(), tools, whole=False) or "print".startswith(name.group())
    called = after[0] in "({" or "[ARGS]".startswith(after[:6])
    if name.group() == "print" and after[0] == "(":
        return not after[1:] or _body(after[1:].lstrip() or "{", tools)
    return called and _names(name.group(), tools, whole=True)


def _object(inside: str, tools: OfferedTools) -> bool:
    """Follow the keys of an object until the one that names the function."""
    while True:
        key = _KEY.match(inside)
        if key is None or not key.group(3):
            begun = key.group(2) if key else ""
            keys = (*NAME_KEYS, *ARGUMENT_KEYS, *OTHER_KEYS, *tools.names)
            return any(known.startswith(begun) for known in keys)
        name, inside = key.group(2), inside[key.end() :].lstrip()
        if inside and inside[0] != ":":
            return False
        inside = inside[1:].lstrip()
        if not inside:
            return name in (*NAME_KEYS, *ARGUMENT_KEYS, *OTHER_KEYS) or name in tools
        if name in tools and name not in NAME_KEYS:
            return inside[0] == "{"
        if name in ARGUMENT_KEYS:
            return inside[0] in "{\"'n"  # the name may follow
        if inside[0] in "{[":
            if name not in ("function", "function_call", "tool_calls"):
                return False
            inside = inside.lstrip("{[ \t\r\n")
            if not inside:
                return True
            continue
        value = _TEXT.match(inside)
        if value is None:
            return name == "index"
        if name in NAME_KEYS:
            return _names(value.group(2), tools, whole=bool(value.group(3)))
        if name not in OTHER_KEYS:
            return False
        if name == "type" and not any(
            known.startswith(value.group(2)) and (known == value.group(2) or not value.group(3)) for known in CALL_TYPES
        ):
            return False
        inside = inside[value.end() :].lstrip(", \t\r\n")
        if not inside:
            return True


def _names(begun: str, tools: OfferedTools, *, whole: bool) -> bool:
    """Return whether this is the name of a tool, or the beginning of one when it may go on."""
    if whole:
        return begun.removeprefix("functions.").removeprefix("default_api.") in tools
    spellings = (prefix + name for name in tools.names for prefix in ("", "functions.", "default_api."))
    return any(spelling.startswith(begun) for spelling in spellings)


class CallWatch:
    """Follows a text that may become a call, piece by piece, and notices prose after the end of a call."""

    def __init__(self, tools: OfferedTools) -> None:
        self._tools = tools
        self._head = ""
        self._tagged = False
        self._depth = 0
        self._quoted = False
        self._escaped = False
        self._after: str | None = None

    def feed(self, piece: str) -> bool:
        """Return whether the text, this piece included, may still be nothing but calls."""
        if len(self._head) < _HEAD:
            self._head += piece
            if not may_become_call(self._head, self._tools):
                return False
            self._tagged = self._tagged or _TAGGED.search(self._head) is not None
        return self._tagged or all(map(self._follow, piece))

    def _follow(self, char: str) -> bool:
        if self._escaped:
            self._escaped = False
        elif self._quoted:
            self._escaped = char == "\\"
            self._quoted = char != '"'
        elif char == '"' and self._depth:
            self._quoted = True
        elif char in "{[(":
            self._depth, self._after = self._depth + 1, None
        elif char in "}])":
            self._depth = max(0, self._depth - 1)
            self._after = "" if self._depth == 0 else None
        elif self._after is not None:
            return self._goes_on(char)
        return True

    def _goes_on(self, char: str) -> bool:
        """Return whether what follows a call closes it, or may be another call."""
        self._after = (self._after or "") + char
        closing = CLOSING.match(self._after)
        assert closing is not None  # it matches nothing, too
        rest = self._after[closing.end() :]
        if self._head.lstrip().startswith("```") and (rest.startswith("```") or "```".startswith(rest)):
            rest = rest[3:].lstrip()
        return not rest or rest[0] in "</|" or may_become_call(rest, self._tools)


_HEAD: Final = 400
"""Characters of a text after which its beginning is not examined again: the name has been seen, or never comes."""
