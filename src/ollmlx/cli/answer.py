"""One streamed answer on the terminal: thinking, text, and the numbers at its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TextIO

from ollmlx.cli import terminal
from ollmlx.cli.client import Json
from ollmlx.cli.spinner import Spinner
from ollmlx.cli.times import spent
from ollmlx.cli.wrap import WordWrap, printable


@dataclass
class Answer:
    """What came: `final` is the last object of the stream, empty while there is none."""

    text: str = ""
    thinking: str = ""
    tool_calls: list[Json] = field(default_factory=list)
    final: Json = field(default_factory=dict)
    interrupted: bool = False


def finished(record: Json) -> bool:
    """Whether an object of /api/generate or /api/chat is the last one."""
    return bool(record.get("done"))


class Display:
    """Writes answers to a stream; wraps, and hides control characters, only where a person reads."""

    def __init__(self, out: TextIO, *, wrap: bool = True, hide_thinking: bool = False) -> None:
        self._out = out
        self._person = terminal.is_terminal(out)
        self._wrap = wrap
        self._hide_thinking = hide_thinking

    def show(self, chunks: Iterator[Json]) -> Answer:
        """Write an answer as it comes. Ctrl-C ends it, closes the request and marks the answer as interrupted."""
        answer = Answer()
        try:
            with Spinner(visible=self._person) as spinner:
                self._write_all(chunks, answer, spinner)
        except KeyboardInterrupt:
            answer.interrupted = True
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        if (answer.text or self._person) and not answer.text.endswith("\n"):
            print(file=self._out)
        if self._person:
            print(file=self._out)
        self._out.flush()
        return answer

    def _write_all(self, chunks: Iterator[Json], answer: Answer, spinner: Spinner) -> None:
        wrap = self._new_wrap()
        for chunk in chunks:
            message: Json = chunk.get("message") or {}
            thinking = message.get("thinking") or chunk.get("thinking") or ""
            text = message.get("content") or chunk.get("response") or ""
            if thinking or text:
                spinner.stop()
            if thinking:
                self._write_thinking(thinking, answer)
            if text:
                if answer.thinking and not answer.text:
                    self._end_thinking()
                answer.text += text
                self._put(wrap.feed(printable(text) if self._person else text))
            answer.tool_calls += message.get("tool_calls") or chunk.get("tool_calls") or []
            if finished(chunk):
                answer.final = chunk

    def _new_wrap(self) -> WordWrap:
        return WordWrap(terminal.width(self._out) if self._wrap else None)

    def _write_thinking(self, text: str, answer: Answer) -> None:
        if not self._hide_thinking:
            if not answer.thinking:
                self._put(terminal.grey("Thinking...\n", self._out))
            self._put(terminal.grey(printable(text) if self._person else text, self._out))
        answer.thinking += text

    def _end_thinking(self) -> None:
        if not self._hide_thinking:
            self._put(terminal.grey("\n...done thinking.\n\n", self._out))

    def _put(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def numbers(final: Json) -> str:
    """What `--verbose` prints: durations, counts, rates."""
    prompt, cached = final.get("prompt_eval_count", 0), final.get("prompt_eval_cached_count", 0)
    lines = [("total duration", spent(final.get("total_duration", 0)))]
    lines.append(("load duration", spent(final.get("load_duration", 0))))
    lines.append(("prompt eval count", f"{prompt} token(s)"))
    if cached:
        lines.append(("prompt eval cached", f"{cached} token(s)"))
    for label, key, count in (("prompt eval", "prompt_eval", prompt - cached), ("eval", "eval", None)):
        tokens = final.get(f"{key}_count", 0) if count is None else count
        if key == "eval":
            lines.append(("eval count", f"{tokens} token(s)"))
        duration = final.get(f"{key}_duration", 0)
        lines.append((f"{label} duration", spent(duration)))
        lines.append((f"{label} rate", f"{tokens / duration * 1e9:.2f} tokens/s" if duration else "n/a"))
    return "\n".join(f"{label + ':':<22}{value}" for label, value in lines)
