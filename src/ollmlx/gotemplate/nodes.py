"""The nodes of a parsed template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TextNode:
    """Text that is written as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, a text, a truth value, or nil."""

    value: Any
    line: int


@dataclass(frozen=True, slots=True)
class Dot:
    """The current value."""

    line: int


@dataclass(frozen=True, slots=True)
class FieldPath:
    """Fields of the current value: `.A.B`."""

    names: Names
    line: int


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable, and fields of it: `$x.A`."""

    name: str
    names: Names
    line: int


@dataclass(frozen=True, slots=True)
class Chain:
    """Fields of a pipeline in parentheses: `(index .A 0).B`."""

    inner: Operand
    names: Names
    line: int


@dataclass(frozen=True, slots=True)
class FunctionName:
    """A function."""

    name: str
    line: int


@dataclass(frozen=True, slots=True)
class CommandNode:
    """A function or a value, with its arguments."""

    words: tuple[Operand, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands, each of which gets the result of the one before it as its last argument.

    `variables` are set to the result: declared, or with `assigns` only assigned.
    """

    commands: tuple[CommandNode, ...]
    line: int
    variables: Names = ()
    assigns: bool = False


Operand = Constant | Dot | FieldPath | Variable | Chain | FunctionName | Pipeline


@dataclass(frozen=True, slots=True)
class Action:
    """A pipeline whose value is printed, unless it sets a variable."""

    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class Branch:
    """`if`, `with` or `range`."""

    keyword: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Jump:
    """`break` or `continue`."""

    keyword: str


@dataclass(frozen=True, slots=True)
class Include:
    """The call of a named template."""

    name: str
    pipeline: Pipeline | None
    line: int


Node = TextNode | Action | Branch | Jump | Include
