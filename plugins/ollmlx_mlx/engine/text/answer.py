"""One request's way from token ids to events: detokenise, stop strings, channels, tool calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ollmlx.runner.kit import RepeatGuard, StopFilter
from ollmlx.types import Event, Text, Thinking, TokenLogprob, ToolCall, ToolCalled
from ollmlx_mlx.engine.text.bare_calls import BareCalls, bare_call
from ollmlx_mlx.engine.text.channels import Channels, Markers
from ollmlx_mlx.engine.text.detokenizer import Detokenizer

ToolReader = Callable[[str], Sequence[ToolCall]]
"""Reads the calls in the text between two tool markers; raises ValueError for what is none."""


class Answer:
    """Turns a stream of tokens into events. Used on the compute thread, by one request.

    `show_thinking` False drops reasoning instead of sending it; `bare_tools`: calls are JSON without markers. `stop` is
    the stop string that was hit.
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
        bare_tools: bool = False,
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = StopFilter(stops)
        self._markers = markers
        self._channels = Channels(markers)
        self._read_tools = read_tools
        self._show_thinking = show_thinking
        self._parallel_tools = parallel_tools
        self._repeats = RepeatGuard()
        self._logprobs: list[TokenLogprob] = []
        self._tool_text = ""
        self._bare = BareCalls() if bare_tools else None
        self._space = ""
        self._blank = markers.initial != "normal"
        self.calls = 0

    @property
    def stop(self) -> str | None:
        """The stop string that ended the answer."""
        return self._stops.hit

    @property
    def state(self) -> str:
        """The channel the model is writing to: `normal`, `reasoning`, `tool`, `gap`."""
        return self._channels.name

    @property
    def runaway(self) -> bool:
        """The model repeats one token without end."""
        return self._repeats.runaway

    @property
    def finished(self) -> bool:
        """Nothing that could follow would be shown."""
        return self.stop is not None or (self.calls > 0 and not self._parallel_tools)

    def add(self, token: int, logprob: TokenLogprob | None = None) -> list[Event]:
        """The events that became certain with this token."""
        if logprob is not None:
            self._logprobs.append(logprob)
        text = self._detokenizer.add(token)
        self._repeats.add(token, text)
        if not text:
            return []
        return self._route(self._stops.feed(text))

    def end(self) -> list[Event]:
        """What was held back, at the end of the stream."""
        events: list[Event] = []
        if self.stop is None:
            events += self._route(self._stops.feed(self._detokenizer.flush()) + self._stops.flush())
        state, text = self._channels.flush()
        if text:
            events += self._piece(state, text)
        if self._bare is not None and (text := self._bare.held):
            self._bare, self._tool_text = None, bare_call(text)
        if self._tool_text:
            events += self._close_tool()
        return events

    def _route(self, text: str) -> list[Event]:
        if not text:
            return []
        events: list[Event] = []
        segments = self._channels.split(text)
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
        if self._bare is not None and text:
            text = self._bare.feed(text)
        if not text:
            return []
        self._blank = False
        return [Text(text=text, logprobs=self._take_logprobs())]

    def _reasoning(self, text: str) -> list[Event]:
        # The blank lines that templates put around a reasoning block belong to neither side.
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
            # Not a call after all: the user still gets what the model wrote, but for markers in it.
            text = self._markers.strip(text)
            return [Text(text=text, logprobs=self._take_logprobs())] if text.strip() else []
        self._logprobs.clear()
        if not self._parallel_tools:
            calls = calls[: 1 - self.calls]
        self.calls += len(calls)
        return [ToolCalled(call=call) for call in calls]

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        taken, self._logprobs = tuple(self._logprobs), []
        return taken
