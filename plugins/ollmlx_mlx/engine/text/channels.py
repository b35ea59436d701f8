"""Which part of a model's output is answer, which is reasoning, which is a tool call: markers told apart in the text.

The marker strings come from mlx-lm's tokenizer wrapper, the matching is mlx-lm's `TextStateMachine`. Added here: the
harmony format of gpt-oss, and rules for the space around a reasoning block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mlx_lm.generate import TextStateMachine

State = Literal["normal", "reasoning", "tool", "gap"]
Edges = dict[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Markers:
    """The format a model writes: state transitions by marker text, and the state in which it starts."""

    transitions: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    initial: str = "normal"

    @property
    def thinks(self) -> bool:
        """Whether the format has a reasoning block."""
        return any(state == "reasoning" for state, _ in self.transitions)

    def strip(self, text: str) -> str:
        """The text without any marker in it."""
        before = ""
        while text != before:
            before = text
            for _, rules in self.transitions:
                for marker, _ in rules:
                    text = text.replace(marker, "")
        return text


def _frozen(edges: Edges, initial: str) -> Markers:
    return Markers(tuple((state, tuple(rules)) for state, rules in edges.items()), initial)


def is_harmony(tokenizer: Any) -> bool:
    """Whether the tokenizer has the channel markers of gpt-oss. Slow (it copies the vocabulary): ask once a model."""
    vocabulary = tokenizer.get_vocab()
    return all(marker in vocabulary for marker in ("<|channel|>", "<|message|>", "<|start|>", "<|call|>"))


def _harmony(tools: bool) -> Edges:
    commentary = "tool" if tools else "gap"
    openings = [
        ("<|channel|>analysis<|message|>", "reasoning"),
        ("<|channel|>final<|message|>", "normal"),
        ("<|channel|>commentary<|message|>", "normal"),
        ("<|channel|>commentary to=", commentary),
        (" to=", commentary),
    ]
    ends = [("<|end|>", "gap"), ("<|return|>", "gap"), ("<|start|>assistant", "gap")]
    return {"gap": openings, "reasoning": ends, "normal": ends, "tool": [("<|call|>", "gap"), ("<|end|>", "gap")]}


def markers_for(tokenizer: Any, *, tools: bool, prompt_tail: str = "", harmony: bool = False) -> Markers:
    """The format of this model.

    `tools`: whether the request offers any; `prompt_tail`: the end of the prompt, which may have opened a reasoning
    block; `harmony`: what `is_harmony` said of the tokenizer.
    """
    if harmony:
        return _frozen(_harmony(tools), "gap")
    edges: Edges = {"normal": []}
    if tokenizer.has_thinking:
        edges["normal"].append((tokenizer.think_start, "reasoning"))
        edges["reasoning"] = [(tokenizer.think_end, "normal")]
    if tools and tokenizer.has_tool_calling:
        _add_tool_states(edges, tokenizer)
    for marker in tokenizer.structural_markers or ():
        edges["normal"].append((marker, "normal"))
    for state, rules in tokenizer.response_transitions.items():
        edges.setdefault(state, []).extend(rules)
    initial = tokenizer.response_initial_state or "normal"
    # A user may write the marker too: only one that ends the prompt opens a block.
    if tokenizer.has_thinking and prompt_tail.rstrip().endswith(tokenizer.think_start):
        initial = "reasoning"
    return _frozen({state: rules for state, rules in edges.items() if rules or state != "normal"}, initial)


def _add_tool_states(edges: Edges, tokenizer: Any) -> None:
    leads_to_tool = any(to == "tool" for rules in tokenizer.response_transitions.values() for _, to in rules)
    if not leads_to_tool:
        edges["normal"].append((tokenizer.tool_call_start, "tool"))
    if tokenizer.has_thinking:
        edges["reasoning"].append((tokenizer.tool_call_start, "tool"))
    edges["tool"] = [(tokenizer.tool_call_end, "normal")] if tokenizer.tool_call_end else []


class Channels:
    """One stream's position among the markers. `split` gives text by state; markers never come out."""

    def __init__(self, markers: Markers) -> None:
        machine = TextStateMachine({state: list(rules) for state, rules in markers.transitions} or None)
        self._state = machine.make_state(markers.initial)

    @property
    def name(self) -> str:
        """The present state."""
        return str(self._state[0])

    def split(self, text: str) -> list[tuple[str, str]]:
        """Pieces of (state, text), one per state passed; the last belongs to the present state. Pieces may be empty."""
        self._state, segments = TextStateMachine.split(self._state, text)
        return [(str(state), piece) for state, piece in segments]

    def flush(self) -> tuple[str, str]:
        """(state, text) that was held back as the possible start of a marker."""
        self._state, text, name = TextStateMachine.flush(self._state)
        return str(name), str(text)
