"""One streamed answer on the terminal: thinking, text, and the figures at its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TextIO

from ollmlx.cli import terminal
from ollmlx.cli.client import Json
from ollmlx.cli.formatting import WordWrap, printable, short_duration
from ollmlx.cli.terminal import Spinner

THINK_LEVELS = ("low", "medium", "high", "max")


@dataclass
class StreamedAnswer:
    """The answer as far as it has arrived. `final`: the last object of the stream, empty until it arrives."""

    text: str = ""
    thinking: str = ""
    tool_calls: list[Json] = field(default_factory=list)
    final: Json = field(default_factory=dict)
    interrupted: bool = False


def finished(record: Json) -> bool:
    """Return True for the last object of /api/generate or /api/chat."""
    return bool(record.get("done"))


class Display:
    """Writes answers to a stream. On a terminal, it wraps words and removes control characters."""

    def __init__(self, out: TextIO, *, wrap: bool = True, hide_thinking: bool = False) -> None:
        self._out = out
        self._on_terminal = terminal.is_terminal(out)
        self._wrap = wrap
        self._hide_thinking = hide_thinking

    def show(self, chunks: Iterator[Json]) -> StreamedAnswer:
        """Write an answer as it arrives. Ctrl-C cancels the request and marks the answer as interrupted."""
        answer = StreamedAnswer()
        try:
            with Spinner(visible=self._on_terminal) as spinner:
                self._write_all(chunks, answer, spinner)
        except KeyboardInterrupt:
            answer.interrupted = True
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        if (answer.text or self._on_terminal) and not answer.text.endswith("\n"):
            print(file=self._out)
        if self._on_terminal:
            print(file=self._out)
        self._out.flush()
        return answer

    def _write_all(self, chunks: Iterator[Json], answer: StreamedAnswer, spinner: Spinner) -> None:
        wrap = WordWrap(terminal.width(self._out) if self._wrap else None)
        for chunk in chunks:
            message: Json = chunk.get("message") or {}
            thinking = message.get("thinking") or chunk.get("thinking") or ""
            text = message.get("content") or chunk.get("response") or ""
            if thinking or text:
                spinner.stop()
            if thinking:
                self._write_thinking(thinking, answer)
            if text:
                if answer.thinking and not answer.text and not self._hide_thinking:
                    self._put(terminal.grey("\n...done thinking.\n\n", self._out))
                answer.text += text
                self._put(wrap.feed(printable(text) if self._on_terminal else text))
            answer.tool_calls += message.get("tool_calls") or chunk.get("tool_calls") or []
            if finished(chunk):
                answer.final = chunk

    def _write_thinking(self, text: str, answer: StreamedAnswer) -> None:
        if not self._hide_thinking:
            if not answer.thinking:
                self._put(terminal.grey("Thinking...\n", self._out))
            self._put(terminal.grey(printable(text) if self._on_terminal else text, self._out))
        answer.thinking += text

    def _put(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def figures(final: Json) -> str:
    """Return the durations, counts and rates that `--verbose` prints."""
    prompt, cached = final.get("prompt_eval_count", 0), final.get("prompt_eval_cached_count", 0)
    lines = [("total duration", short_duration(final.get("total_duration", 0)))]
    lines.append(("load duration", short_duration(final.get("load_duration", 0))))
    lines.append(("prompt eval count", f"{prompt} token(s)"))
    if cached:
        lines.append(("prompt eval cached", f"{cached} token(s)"))
    lines += _rate("prompt eval", prompt - cached, final.get("prompt_eval_duration", 0))
    generated = final.get("eval_count", 0)
    lines.append(("eval count", f"{generated} token(s)"))
    lines += _rate("eval", generated, final.get("eval_duration", 0))
    return "\n".join(f"{label + ':':<22}{value}" for label, value in lines)


def _rate(label: str, tokens: int, nanoseconds: int) -> list[tuple[str, str]]:
    rate = f"{tokens / nanoseconds * 1e9:.2f} tokens/s" if nanoseconds else "n/a"
    return [(f"{label} duration", short_duration(nanoseconds)), (f"{label} rate", rate)]
