"""From token ids to events: detokenise, find stop strings, tell answer, reasoning and tool calls apart.

The marker strings come from mlx-lm's tokenizer wrapper, the matching is mlx-lm's `TextStateMachine`. Added here: the
harmony format of gpt-oss, and rules for the space around a reasoning block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_lm.generate import TextStateMachine

from ollmlx.runner.kit import RepeatGuard, StopFilter
from ollmlx.types import Event, RawCall, Text, Thinking, TokenLogprob, ToolCall, ToolCalled
from ollmlx_mlx.engine.text.detokenizer import Detokenizer

HARMONY_ANSWER = "<|end|><|start|>assistant<|channel|>final<|message|>"
"""The text between a thought and the answer in gpt-oss's format."""

Edges = dict[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Markers:
    """The format of a model's output: in each state the markers that lead to another, and the first state.

    The states are `normal`, `reasoning`, `tool` and `gap` (between two messages).
    """

    transitions: Edges
    initial: str = "normal"

    @property
    def thinks(self) -> bool:
        """Return whether the format has a reasoning block."""
        return "reasoning" in self.transitions


def is_harmony(tokenizer: Any) -> bool:
    """Return whether the tokenizer has gpt-oss's channel markers. Slow (it copies the vocabulary): once a model."""
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
    """Return the output format of this model.

    `tools`: whether the request offers any; `prompt_tail`: the end of the prompt, which may have opened a reasoning
    block; `harmony`: the result of `is_harmony`.
    """
    if harmony:
        return Markers(_harmony(tools), "gap")
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
    # A user may write the marker too: it opens a block only at the end of the prompt.
    if tokenizer.has_thinking and prompt_tail.rstrip().endswith(tokenizer.think_start):
        initial = "reasoning"
    return Markers({state: rules for state, rules in edges.items() if rules or state != "normal"}, initial)


def _add_tool_states(edges: Edges, tokenizer: Any) -> None:
    leads_to_tool = any(to == "tool" for rules in tokenizer.response_transitions.values() for _, to in rules)
    if not leads_to_tool:
        edges["normal"].append((tokenizer.tool_call_start, "tool"))
    if tokenizer.has_thinking:
        edges["reasoning"].append((tokenizer.tool_call_start, "tool"))
    edges["tool"] = [(tokenizer.tool_call_end, "normal")] if tokenizer.tool_call_end else []


ToolReader = Callable[[str], Sequence[ToolCall]]
"""Reads the calls in the text between two tool markers; raises ValueError when there is none."""


class AnswerParser:
    """Turns one request's tokens into events. Used on the compute thread.

    `show_thinking` False drops reasoning instead of sending it.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: Sequence[str],
        markers: Markers,
        read_tools: ToolReader,
        *,
        show_thinking: bool = True,
        parallel_tools: bool = True,
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = StopFilter(stops)
        self._markers = markers
        self._channel = TextStateMachine(markers.transitions or None).make_state(markers.initial)
        self._read_tools = read_tools
        self._show_thinking = show_thinking
        self._parallel_tools = parallel_tools
        self._repeats = RepeatGuard()
        self._logprobs: list[TokenLogprob] = []
        self._tool_text = ""
        self._space = ""
        self._blank = markers.initial != "normal"
        self.calls = 0

    @property
    def stop(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stops.hit

    @property
    def state(self) -> str:
        """The present state of the format, as in `Markers`."""
        return str(self._channel[0])

    @property
    def runaway(self) -> bool:
        """Return whether the model repeats one token without end."""
        return self._repeats.runaway

    @property
    def finished(self) -> bool:
        """Return whether no later text would be shown."""
        return self.stop is not None or (self.calls > 0 and not self._parallel_tools)

    def add(self, token: int, logprob: TokenLogprob | None = None) -> list[Event]:
        """Return the events that became certain with this token."""
        if logprob is not None:
            self._logprobs.append(logprob)
        text = self._detokenizer.add(token)
        self._repeats.add(token, text)
        if not text:
            return []
        return self._route(self._stops.feed(text))

    def end(self) -> list[Event]:
        """Return the events that were held back, at the end of the stream."""
        events: list[Event] = []
        if self.stop is None:
            events += self._route(self._stops.feed(self._detokenizer.flush()) + self._stops.flush())
        self._channel, text, state = TextStateMachine.flush(self._channel)
        if text:
            events += self._piece(state, text)
        if self._tool_text:
            events += self._close_tool()
        return events

    def _route(self, text: str) -> list[Event]:
        if not text:
            return []
        events: list[Event] = []
        self._channel, segments = TextStateMachine.split(self._channel, text)
        for index, (state, piece) in enumerate(segments):
            if piece:
                events += self._piece(state, piece)
            left = index + 1 < len(segments)
            if left and state == "tool":
                events += self._close_tool()
            if left:
                self._space, self._blank = "", True
        return events

    def _piece(self, state: str, text: str) -> list[Event]:
        if state == "tool":
            self._tool_text += text
            return []
        if state == "gap":
            return []
        if state == "reasoning":
            return self._reasoning(text)
        if self._blank:
            text = text.lstrip()
        if not text:
            return []
        self._blank = False
        return [Text(text=text, logprobs=self._take_logprobs())]

    def _reasoning(self, text: str) -> list[Event]:
        # The blank lines around a reasoning block belong to the template: drop them.
        text = self._space + text
        if self._blank:
            text = text.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :]
        if not shown:
            return []
        self._blank = False
        logprobs = self._take_logprobs()
        return [Thinking(text=shown, logprobs=logprobs)] if self._show_thinking else []

    def _close_tool(self) -> list[Event]:
        text, self._tool_text = self._tool_text, ""
        try:
            calls = self._read_tools(text)
        except ValueError:
            self._logprobs.clear()
            return [RawCall(text=text)] if text.strip() else []
        self._logprobs.clear()
        if not self._parallel_tools:
            calls = calls[: 1 - self.calls]
        self.calls += len(calls)
        return [ToolCalled(call=call) for call in calls]

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        logprobs, self._logprobs = tuple(self._logprobs), []
        return logprobs
