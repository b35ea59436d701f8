"""The events of an answer, with every call in them: the engine's own, and those that it did not recognise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from ollmlx.calls.holding import CallWatch
from ollmlx.calls.schema import OfferedTools
from ollmlx.calls.shapes import NoCall, UnreadableCall, call_id, called_name, find_calls, read_arguments
from ollmlx.model.events import closing
from ollmlx.types import Done, Event, GenerateRequest, RawCall, Text, ToolCall, ToolCalled


async def read_calls(
    events: AsyncIterator[Event], request: GenerateRequest, *, recognise: bool = True
) -> AsyncIterator[Event]:
    """Yield the events; text that is a call becomes a call.

    The beginning of an answer is held back as long as all of it may be a call of an offered tool. A call that cannot be
    read, or that breaks a strict schema, stays text, after which the answer ends as one that is not complete (`length`)
    and says why. `recognise` False leaves alone what the engine took for text.
    """
    reader = _CallReader(request, recognise=recognise)
    async with closing(events):
        async for event in events:
            for ready in reader.feed(event):
                yield ready


class _CallReader:
    def __init__(self, request: GenerateRequest, *, recognise: bool) -> None:
        self._tools = OfferedTools(request.tools, request.tool_choice)
        self._parallel = request.parallel_tool_calls
        recognise = recognise and bool(self._tools) and request.format is None
        self._watch = CallWatch(self._tools) if recognise else None
        self._held: list[Text] = []
        self._broken: RawCall | None = None
        self._freeform = request.grammar is not None
        self._written: ToolCalled | None = None
        self._calls = 0
        self._fault = ""

    def feed(self, event: Event) -> Iterator[Event]:
        broken, self._broken = self._broken, None
        if broken is not None:
            yield from self._mended(broken, cut=isinstance(event, Done) and event.reason == "length")
        match event:
            case Text() if self._watch is not None:
                self._held.append(event)
                if not self._watch.feed(event.text):
                    yield from self._release()
            case ToolCalled() if self._freeform:
                self._written = event
            case ToolCalled():
                yield from self._release()
                yield from self._called([event.call])
            case RawCall():
                yield from self._release()
                self._broken = event  # it is mended unless the end tells that it was cut
            case Done():
                if self._written is not None:
                    yield from self._freeform_call(self._written, cut=event.reason == "length")
                yield from self._ended(event)
            case _:
                yield event

    def _release(self) -> Iterator[Event]:
        """Yield the text that was held back; none is held back after it."""
        held, self._held, self._watch = self._held, [], None
        yield from held

    def _called(self, calls: list[ToolCall]) -> Iterator[Event]:
        for call in calls if self._parallel else calls[: max(0, 1 - self._calls)]:
            strict = self._tools.is_strict(call.name)
            fault = self._tools.fault(call.name, call.arguments) if strict else None
            if fault is None:
                self._calls += 1
                yield ToolCalled(call=call)
            else:
                yield Text(text=call.model_dump_json(include={"name", "arguments"}))
                self._fault = f"the arguments of {call.name} do not fit its parameters: {fault}"

    def _mended(self, broken: RawCall, *, cut: bool) -> Iterator[Event]:
        """Read what the engine could not, or pass it on as text. A call that was cut by length is not mended."""
        if cut:
            yield Text(text=broken.text)
            return
        try:
            if broken.name is None:
                calls = find_calls(broken.text, self._tools)
            else:
                calls = [ToolCall(name=broken.name, arguments=read_arguments(broken.text), id=call_id())]
        except ValueError as error:
            yield Text(text=broken.text)
            name = broken.name or called_name(broken.text) or "a tool"
            self._fault = str(error) or f"it is no call of an offered tool ({name})"
        else:
            yield from self._called(calls)

    def _freeform_call(self, written: ToolCalled, *, cut: bool) -> Iterator[Event]:
        """Yield a call whose text the grammar held. A text that was cut by length matches it only in part."""
        yield from self._release()
        if cut:
            yield from (Text(text=str(text)) for text in written.call.arguments.values())
        else:
            yield written

    def _ended(self, done: Done) -> Iterator[Event]:
        text = "".join(event.text for event in self._held)
        try:
            whole = self._watch is not None and done.reason == "stop"
            calls = find_calls(text, self._tools) if whole and text.strip() else []
        except NoCall:
            calls = []
        except UnreadableCall as error:
            calls, self._fault = [], str(error)
        if calls:
            self._held = []
            yield from self._called(calls)
        yield from self._release()
        if self._fault:
            yield Text(text=f"\n\n[The tool was not called: {self._fault}. Call it again.]")
            done = done.model_copy(update={"reason": "length"})
        yield done
