"""Evaluates a parsed template with data. It ends at a limit of steps, of depth and of output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from ollmlx.errors import InvalidRequest
from ollmlx.gotemplate import functions, nodes
from ollmlx.gotemplate.parser import ParsedTemplate
from ollmlx.gotemplate.values import NOTHING, TemplateFault, field, kind, shown, truth

MAX_STEPS: Final = 500_000
"""Nodes that one execution evaluates, and pieces of `PIECE` characters that its functions make."""
PIECE: Final = 64
MAX_DEPTH: Final = 100
"""Blocks, templates and parentheses within each other while a template is executed."""
MAX_OUTPUT: Final = 4 << 20
"""Characters of a prompt."""


def execute(template: ParsedTemplate, data: Any) -> str:
    """Return the text that a template makes of data. Raises InvalidRequest with the line, or at a limit."""
    run = _Execution(template)
    run.walk(template.root, data)
    text = "".join(run.output)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class _Execution:
    def __init__(self, template: ParsedTemplate) -> None:
        self.output: list[str] = []
        self._template = template
        self._size = 0
        self._steps = 0
        self._depth = 0
        self._line = 1
        self._variables: list[tuple[str, Any]] = []

    def walk(self, list_of_nodes: Sequence[nodes.Node], dot: Any) -> None:
        """Execute a template's nodes. `$` is its data."""
        self._variables.append(("$", dot))
        try:
            self._list(list_of_nodes, dot)
        except TemplateFault as fault:
            raise InvalidRequest(f"template error: line {self._line}: {fault}") from fault

    # -- limits ------------------------------------------------------------------------------------------------------

    def _step(self, text: str = "") -> None:
        self._steps += 1 + len(text) // PIECE
        if self._steps > MAX_STEPS:
            raise TemplateFault(f"it takes more than {MAX_STEPS} steps")

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateFault(f"it is nested more than {MAX_DEPTH} levels deep")

    def _write(self, text: str) -> None:
        self._size += len(text)
        if self._size > MAX_OUTPUT:
            raise TemplateFault(f"its text is longer than {MAX_OUTPUT >> 20} Mi characters")
        self.output.append(text)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _list(self, list_of_nodes: Sequence[nodes.Node], dot: Any) -> str:
        """Execute nodes in order. Returns `break` or `continue` when one of them ends the iteration, else nothing."""
        for node in list_of_nodes:
            self._step()
            match node:
                case nodes.TextNode():
                    self._write(node.text)
                case nodes.Action():
                    value = self._pipeline(node.pipeline, dot)
                    if not node.pipeline.variables:
                        text = shown(value)
                        self._step(text)
                        self._write(text)
                case nodes.Branch():
                    if jump := self._branch(node, dot):
                        return jump
                case nodes.Jump():
                    return node.keyword
                case nodes.Include():
                    self._include(node, dot)
        return ""

    def _branch(self, node: nodes.Branch, dot: Any) -> str:
        mark = len(self._variables)
        self._deeper()
        value = self._pipeline(node.pipeline, dot)
        if node.keyword == "range":
            jump = self._range(node, value, dot)
        elif truth(value):
            jump = self._list(node.body, value if node.keyword == "with" else dot)
        else:
            jump = self._list(node.otherwise, dot)
        self._depth -= 1
        del self._variables[mark:]
        return jump

    def _range(self, node: nodes.Branch, value: Any, dot: Any) -> str:
        names, assigns = node.pipeline.variables, node.pipeline.assigns
        mark, empty = len(self._variables), True
        for index, element in _elements(value, pair=len(names) > 1):
            empty = False
            self._step()
            given = (index, element) if len(names) > 1 else (element,)
            for place, (name, each) in enumerate(zip(names, given, strict=False)):
                if assigns:
                    self._assign(name, each)
                else:
                    self._variables[mark - len(names) + place] = (name, each)
            jump = self._list(node.body, element)
            del self._variables[mark:]
            if jump == "break":
                break
        return self._list(node.otherwise, dot) if empty else ""

    def _include(self, node: nodes.Include, dot: Any) -> None:
        self._line = node.line
        body = self._template.defined.get(node.name)
        if body is None:
            raise TemplateFault(f"template {node.name[:80]!r} not defined")
        self._deeper()
        inner = NOTHING if node.pipeline is None else self._pipeline(node.pipeline, dot)
        outer, self._variables = self._variables, [("$", inner)]
        self._list(body, inner)
        self._variables = outer
        self._depth -= 1

    # -- pipelines ---------------------------------------------------------------------------------------------------

    def _pipeline(self, pipeline: nodes.Pipeline, dot: Any) -> Any:
        """Return the value of a pipeline, and set its variables."""
        self._line = pipeline.line
        final: tuple[Any, ...] = ()
        for command in pipeline.commands:
            value = self._command(command, dot, final)
            final = (NOTHING if value is None else value,)
        for name in pipeline.variables:
            if pipeline.assigns:
                self._assign(name, final[0])
            else:
                self._variables.append((name, final[0]))
        return final[0]

    def _assign(self, name: str, value: Any) -> None:
        for place in reversed(range(len(self._variables))):
            self._step()
            if self._variables[place][0] == name:
                self._variables[place] = (name, value)
                return
        raise TemplateFault(f"undefined variable: {name[:80]}")

    def _command(self, command: nodes.CommandNode, dot: Any, final: tuple[Any, ...]) -> Any:
        first, *words = command.words
        self._line = command.line
        if isinstance(first, nodes.FunctionName):
            return self._call(first.name, words, dot, final)
        if isinstance(first, nodes.Constant) and first.value is None:
            raise TemplateFault("nil is not a command")
        if words or final:
            raise TemplateFault("can't give arguments to what is no function")
        return self._value(first, dot)

    def _call(self, name: str, words: Sequence[nodes.Operand], dot: Any, final: tuple[Any, ...]) -> Any:
        values: list[Any] = []
        for value in self._arguments(words, dot, final):
            values.append(None if value is NOTHING else value)
            if name in ("and", "or") and truth(value) == (name == "or"):
                return values[-1]
            if isinstance(value, str):
                self._step(value)
        result = functions.call(name, values)
        if isinstance(result, str):
            self._step(result)
            if len(result) > MAX_OUTPUT:
                raise TemplateFault(f"a text is longer than {MAX_OUTPUT >> 20} Mi characters")
        return result

    def _arguments(self, words: Sequence[nodes.Operand], dot: Any, final: tuple[Any, ...]) -> Iterator[Any]:
        for word in words:
            yield self._value(word, dot)
        yield from final

    def _value(self, operand: nodes.Operand, dot: Any) -> Any:
        self._step()
        match operand:
            case nodes.Constant():
                return operand.value
            case nodes.Dot():
                return dot
            case nodes.FieldPath():
                return self._fields(dot, operand.names)
            case nodes.Variable():
                return self._fields(self._variable(operand.name), operand.names)
            case nodes.Chain():
                return self._fields(self._value(operand.inner, dot), operand.names)
            case nodes.Pipeline():
                self._deeper()
                value = self._pipeline(operand, dot)
                self._depth -= 1
                return value
            case nodes.FunctionName():
                return self._call(operand.name, (), dot, ())

    def _variable(self, name: str) -> Any:
        for known, value in reversed(self._variables):
            self._step()
            if known == name:
                return value
        raise TemplateFault(f"undefined variable: {name[:80]}")

    def _fields(self, value: Any, names: Sequence[str]) -> Any:
        for name in names:
            value = field(value, name)
        return value


def _elements(value: Any, *, pair: bool) -> Iterable[tuple[Any, Any]]:
    """Return the indexes and elements over which a loop runs. Raises TemplateFault."""
    if isinstance(value, list):
        return enumerate(value)
    if isinstance(value, dict):
        return ((key, value[key]) for key in sorted(value))
    if value is None or value is NOTHING:
        return ()
    if kind(value) == "int" and not pair:
        return ((None, number) for number in range(value))
    raise TemplateFault(f"range can't iterate over {shown(value)[:80]}")
