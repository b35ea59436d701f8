"""From tokens to nodes. Everything that can be known without data is checked here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ollmlx.gotemplate.functions import FUNCTIONS
from ollmlx.gotemplate.lexer import Token, fail, read_char, read_number, read_string, tokens
from ollmlx.gotemplate.nodes import (
    Action,
    Branch,
    Chain,
    CommandNode,
    Constant,
    Dot,
    FieldPath,
    FunctionName,
    Include,
    Jump,
    Node,
    Operand,
    Pipeline,
    TextNode,
    Variable,
)

MAX_NESTING: Final = 50
"""Blocks and parentheses within each other."""
MAX_VARIABLES: Final = 200
"""Variables that exist at the same time."""
_KEYWORDS: Final = frozenset(
    {"if", "else", "end", "range", "with", "define", "block", "template", "break", "continue", "nil", "true", "false"}
)
_CONSTANTS: Final = {"true": True, "false": False, "nil": None}
_BOUNDARIES: Final = ("close", "space", "end")


@dataclass
class ParsedTemplate:
    """A template: its own nodes, and those of the templates that it defines, by name."""

    root: tuple[Node, ...]
    defined: dict[str, tuple[Node, ...]] = field(default_factory=dict)


def parse(source: str) -> ParsedTemplate:
    """Parse a template. Raises InvalidRequest with the line."""
    return _Parser(source).template()


class _Parser:
    def __init__(self, source: str) -> None:
        self._tokens = list(tokens(source))
        self._at = 0
        self._variables = ["$"]
        self._nesting = 0
        self._loops = 0
        self._defined: dict[str, tuple[Node, ...]] = {}

    def template(self) -> ParsedTemplate:
        nodes, ended = self._list(top=True)
        if ended is not None:
            fail(ended.line, f"unexpected {{{{{ended.text}}}}}")
        return ParsedTemplate(nodes, self._defined)

    # -- tokens ------------------------------------------------------------------------------------------------------

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _next(self) -> Token:
        token = self._tokens[self._at]
        if token.kind == "end":
            fail(token.line, "unexpected end of the template")
        self._at += 1
        return token

    def _solid(self) -> Token:
        """Return the next token that is no space, without taking it."""
        while self._peek().kind == "space":
            self._at += 1
        return self._peek()

    def _close(self, where: str) -> None:
        token = self._solid()
        if token.kind != "close":
            fail(token.line, f"unexpected {token.text[:40]!r} in {where}")
        self._at += 1

    def _deeper(self, line: int) -> None:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            fail(line, f"more than {MAX_NESTING} blocks or parentheses within each other")

    # -- blocks ------------------------------------------------------------------------------------------------------

    def _list(self, *, top: bool = False) -> tuple[tuple[Node, ...], Token | None]:
        """Return the nodes up to `end` or `else`, and that token; None at the end of the template."""
        nodes: list[Node] = []
        while (token := self._peek()).kind != "end":
            self._at += 1
            if token.kind == "text":
                nodes.append(TextNode(token.text))
                continue
            word = self._solid()
            if word.kind == "identifier" and word.text in ("end", "else"):
                self._at += 1
                return tuple(nodes), word
            if word.kind == "identifier" and word.text == "define":
                if not top:
                    fail(word.line, "unexpected {{define}}")
                self._at += 1
                self._define()
                continue
            nodes.append(self._node(word))
        if not top:
            fail(token.line, "unexpected end of the template: {{end}} is missing")
        return tuple(nodes), None

    def _node(self, word: Token) -> Node:
        keyword = word.text if word.kind == "identifier" and word.text in _KEYWORDS else ""
        if keyword in _CONSTANTS or not keyword:
            return Action(self._pipeline("close", "command"))
        self._at += 1
        match keyword:
            case "if" | "with" | "range":
                return self._branch(keyword, word.line)
            case "template":
                return self._include(word.line)
            case "block":
                return self._block(word.line)
        self._close(keyword)
        if not self._loops:
            fail(word.line, f"{{{{{keyword}}}}} outside {{{{range}}}}")
        return Jump(keyword)

    def _branch(self, keyword: str, line: int) -> Branch:
        """Return a block; its keyword is taken already."""
        self._deeper(line)
        mark = len(self._variables)
        pipeline = self._pipeline("close", keyword, pair=keyword == "range")
        self._loops += keyword == "range"
        body, ended = self._list()
        self._loops -= keyword == "range"
        otherwise: tuple[Node, ...] = ()
        assert ended is not None
        if ended.text == "else":
            again = self._solid()
            if keyword != "range" and again.kind == "identifier" and again.text == keyword:
                self._at += 1
                otherwise = (self._branch(keyword, again.line),)  # it takes the one {{end}} of both
            else:
                self._close("else")
                otherwise, last = self._list()
                assert last is not None
                if last.text != "end":
                    fail(last.line, "expected end; found {{else}}")
                self._close("end")
        else:
            self._close("end")
        del self._variables[mark:]
        self._nesting -= 1
        return Branch(keyword, pipeline, body, otherwise)

    def _include(self, line: int) -> Include:
        name = self._name("template")
        pipeline = None if self._solid().kind == "close" else self._pipeline("close", "template")
        if pipeline is None:
            self._close("template")
        return Include(name, pipeline, line)

    def _block(self, line: int) -> Include:
        name = self._name("block")
        pipeline = self._pipeline("close", "block")
        self._body_of(name, line)
        return Include(name, pipeline, line)

    def _define(self) -> None:
        line = self._peek().line
        name = self._name("define")
        self._close("define")
        self._body_of(name, line)

    def _body_of(self, name: str, line: int) -> None:
        """Parse the body of a named template, in which no variable of the surrounding one exists."""
        self._deeper(line)
        outer, self._variables = self._variables, ["$"]
        loops, self._loops = self._loops, 0
        nodes, ended = self._list()
        assert ended is not None
        if ended.text != "end":
            fail(ended.line, "unexpected {{else}}")
        self._close("end")
        self._variables, self._loops = outer, loops
        self._nesting -= 1
        empty = all(isinstance(node, TextNode) and not node.text.strip() for node in nodes)
        if not empty and any(
            not isinstance(node, TextNode) or node.text.strip() for node in self._defined.get(name, ())
        ):
            fail(line, f"multiple definition of template {name[:80]!r}")
        if not empty or name not in self._defined:
            self._defined[name] = nodes

    def _name(self, where: str) -> str:
        token = self._solid()
        if token.kind != "string":
            fail(token.line, f"unexpected {token.text[:40]!r} in {where} clause")
        self._at += 1
        return read_string(token)

    # -- pipelines ---------------------------------------------------------------------------------------------------

    def _pipeline(self, end: str, where: str, *, pair: bool = False) -> Pipeline:
        """Return a pipeline and take its `end`: the kind `close`, or the symbol `)`."""
        line = self._solid().line
        names, assigns = self._assignment(pair)
        commands: list[CommandNode] = []
        while True:
            token = self._solid()
            if token.kind == end or (token.kind == "symbol" and token.text == end):
                self._at += 1
                self._check(commands, where, token.line)
                return Pipeline(tuple(commands), line, names, assigns)
            if token.kind == "symbol" and token.text != "(":
                fail(token.line, f"unexpected {token.text!r} in {where}")
            commands.append(self._command(where))

    def _assignment(self, pair: bool) -> tuple[tuple[str, ...], bool]:
        """Return the variables that a pipeline sets, and whether they exist already. Declares the new ones."""
        start, names = self._at, list[str]()
        while self._solid().kind == "variable":
            names.append(self._next().text)
            token = self._solid()
            if token.kind == "symbol" and token.text in (":=", "="):
                self._at += 1
                declares = token.text == ":="
                if declares:
                    self._variables += names
                    if len(self._variables) > MAX_VARIABLES:
                        fail(token.line, f"more than {MAX_VARIABLES} variables")
                elif missing := next((name for name in names if name not in self._variables), None):
                    fail(token.line, f"undefined variable {missing[:40]!r}")
                return tuple(names), not declares
            if not (pair and len(names) == 1 and token.kind == "symbol" and token.text == ","):
                break
            self._at += 1
        self._at = start
        return (), False

    def _check(self, commands: list[CommandNode], where: str, line: int) -> None:
        if not commands:
            fail(line, f"missing value for {where}")
        for number, command in enumerate(commands[1:], 2):
            if isinstance(command.words[0], Constant | Dot):
                fail(command.line, f"non executable command in pipeline stage {number}")

    def _command(self, where: str) -> CommandNode:
        """Return one command; the `|` behind it is taken."""
        words: list[Operand] = []
        line = self._peek().line
        while True:
            token = self._solid()
            if token.kind in ("close", "end") or (token.kind == "symbol" and token.text == ")"):
                break
            if token.kind == "symbol" and token.text == "|":
                self._at += 1
                after = self._solid()
                if after.kind == "close" or (after.kind == "symbol" and after.text == ")"):
                    fail(after.line, f"missing value for {where}")
                break
            words.append(self._operand())
            follows = self._peek()
            if follows.kind not in _BOUNDARIES and not (follows.kind == "symbol" and follows.text in ("|", ")")):
                fail(follows.line, f"unexpected {follows.text[:40]!r} in operand")
        if not words:
            fail(line, "empty command")
        return CommandNode(tuple(words), line)

    def _operand(self) -> Operand:
        term = self._term()
        names = tuple(self._fields())
        if not names:
            return term
        if isinstance(term, FieldPath):
            return FieldPath(term.names + names, term.line)
        if isinstance(term, Variable):
            return Variable(term.name, names, term.line)
        if isinstance(term, Constant | Dot):
            fail(term.line, f"unexpected . after term {term!r}"[:120])
        return Chain(term, names, term.line)

    def _fields(self) -> Iterator[str]:
        while self._peek().kind == "field":
            yield self._next().text[1:]

    def _term(self) -> Operand:
        token = self._next()
        line = token.line
        match token.kind:
            case "field":
                return FieldPath((token.text[1:],), line)
            case "dot":
                return Dot(line)
            case "variable":
                if token.text not in self._variables:
                    fail(line, f"undefined variable {token.text[:40]!r}")
                return Variable(token.text, (), line)
            case "number":
                return Constant(read_number(token), line)
            case "string":
                return Constant(read_string(token), line)
            case "char":
                return Constant(read_char(token), line)
            case "identifier" if token.text in _CONSTANTS:
                return Constant(_CONSTANTS[token.text], line)
            case "identifier" if token.text in FUNCTIONS:
                return FunctionName(token.text, line)
            case "identifier":
                what = "unexpected keyword" if token.text in _KEYWORDS else "function not defined:"
                fail(line, f"{what} {token.text[:40]!r}")
            case "symbol" if token.text == "(":
                self._deeper(line)
                inner = self._pipeline(")", "parenthesized pipeline")
                self._nesting -= 1
                return inner
        return fail(line, f"unexpected {token.text[:40]!r}")
