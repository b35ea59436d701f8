"""The chat loop: reads lines, runs commands, sends turns and prints answers."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from ollmlx.cli.answer import Display, figures, finished
from ollmlx.cli.chat.commands import Conversation, Session, run_command
from ollmlx.cli.client import Client, Json
from ollmlx.cli.connection import settings
from ollmlx.cli.media import take_media
from ollmlx.cli.terminal import Spinner, note, report, unechoed
from ollmlx.errors import OllmlxError, StorageError
from ollmlx.settings.files import private_file
from ollmlx.text.controls import escape_text

FENCE = '"""'


def chat(client: Client, args: argparse.Namespace) -> int:
    """Chat until /bye or Ctrl-D."""
    with unechoed(sys.stdin):
        return _chat(client, args)


def _chat(client: Client, args: argparse.Namespace) -> int:
    body: Json = {"model": args.model, "stream": False}
    if args.keepalive is not None:
        body["keep_alive"] = args.keepalive
    with Spinner():
        client.post("/api/generate", body)
    conversation = Conversation(args.model, format=args.format, think=args.think, keep_alive=args.keepalive)
    session = Session(client, conversation, print, wordwrap=not args.nowordwrap, verbose=args.verbose)
    for line in shown_messages(client.post("/api/show", {"model": args.model}).get("messages") or ()):
        print(line)
    reader = _Reader(session, _history_file(args))
    while not session.over:
        chat_input = reader.read()
        if chat_input is None:
            break
        try:
            if chat_input.command:
                run_command(session, chat_input.text)
            else:
                _turn(session, chat_input.text, hide_thinking=args.hidethinking)
        except OllmlxError as error:
            report(error)
        except KeyboardInterrupt:
            print()
    return 0


def shown_messages(messages: Iterable[Json]) -> Iterator[str]:
    """Yield the lines that show the turns with which a model's conversations begin."""
    for turn in messages:
        text = escape_text(str(turn.get("content", "")))
        yield f">>> {text}" if turn.get("role") == "user" else f"{text}\n"


def _editor_keys() -> KeyBindings:
    """Return the keys that open the line in an editor: Ctrl+G, as in Ollama."""
    keys = KeyBindings()

    @keys.add("c-g")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return keys


def _turn(session: Session, text: str, *, hide_thinking: bool) -> None:
    conversation = session.conversation
    conversation.add_question(*take_media(session.client, conversation.model, text))
    display = Display(sys.stdout, wrap=session.wordwrap, hide_thinking=hide_thinking)
    try:
        answer = display.show(session.client.stream("/api/chat", conversation.request(), ended=finished))
    except OllmlxError:
        conversation.remove_question()
        raise
    conversation.add_answer(answer)
    if session.verbose and answer.final:
        print(figures(answer.final) + "\n", file=sys.stderr)


class _Reader:
    """Reads one input at a time from the terminal."""

    def __init__(self, session: Session, file: Path | None) -> None:
        kept: History = FileHistory(str(file)) if file is not None else InMemoryHistory()
        if editor := os.environ.get("OLLAMA_EDITOR"):
            os.environ["VISUAL"] = editor  # the variable that the prompt's library asks first
        self._prompt: PromptSession[str] = PromptSession(
            history=_SwitchableHistory(kept, session), key_bindings=_editor_keys(), tempfile_suffix=".txt"
        )
        self._lines = LineReader()
        self._pasted: list[str] = []

    def read(self) -> ChatInput | None:
        """Return the next input; None at Ctrl-D."""
        while True:
            try:
                line = self._line()
            except EOFError:
                return None
            except KeyboardInterrupt:
                if not self._lines.open:
                    print("Use Ctrl + d or /bye to exit.")
                self._lines.drop()
                continue
            if (chat_input := self._lines.feed(line)) is not None:
                return chat_input

    def _line(self) -> str:
        """Return the next line. A pasted block is read line by line; other pasted text counts as one line."""
        if not self._pasted:
            text = self._ask()
            self._pasted = text.split("\n") if self._lines.open or FENCE in text else [text]
        return self._pasted.pop(0)

    def _ask(self) -> str:
        sign, hint = ">>> ", "Send a message (/? for help)"
        if self._lines.open:
            sign, hint = "... ", 'Use """ to end multi-line input'
        return self._prompt.prompt(sign, placeholder=FormattedText([("fg:ansibrightblack", hint)]))


class _SwitchableHistory(History):
    """A history that saves lines only while `session.history` is true."""

    def __init__(self, kept: History, session: Session) -> None:
        super().__init__()
        self._kept = kept
        self._session = session

    def load_history_strings(self) -> Iterable[str]:
        return self._kept.load_history_strings()

    def store_string(self, string: str) -> None:
        if self._session.history:
            self._kept.store_string(string)


def _history_file(args: argparse.Namespace) -> Path | None:
    """Return the history file; None if OLLAMA_NOHISTORY is set or the state folder cannot be used."""
    if os.environ.get("OLLAMA_NOHISTORY", "").lower() not in ("", "0", "false"):
        return None
    try:
        return private_file(settings(args).state_folder, "history")
    except StorageError as error:
        note(f"the lines that you type are not saved: {error.message}")
        return None


@dataclass(frozen=True)
class ChatInput:
    """One complete input. `command`: it is a command (`/set …`), not text for the model."""

    text: str
    command: bool = False


class LineReader:
    """Collects lines until an input is complete.

    A line that begins with three quotes opens a block, and a line that ends with them closes it. A block is text for
    the model, also if it has slashes. `/set system` takes a block as its value.
    """

    def __init__(self) -> None:
        self._head = ""
        self._block: list[str] | None = None

    @property
    def open(self) -> bool:
        """True while a block is not closed."""
        return self._block is not None

    def drop(self) -> None:
        """Discard an open block."""
        self._head, self._block = "", None

    def feed(self, line: str) -> ChatInput | None:
        """Add a line. Return the input that it completes; None if none is complete yet."""
        if self._block is None:
            head, body = _opening(line)
            if body is None:
                return _plain(line)
            self._head, self._block, line = head, [], body
        closed = line.rstrip().endswith(FENCE)
        self._block.append(line.rstrip().removesuffix(FENCE) if closed else line)
        if not closed:
            return None
        chat_input = ChatInput(self._head + "\n".join(self._block), command=bool(self._head))
        self.drop()
        return chat_input


def is_command(line: str) -> bool:
    """Return True if a line is a command. A path such as `/usr/bin` is text for the model."""
    first = line.split(None, 1)[0] if line.split() else ""
    return first.startswith("/") and "/" not in first[1:]


def _opening(line: str) -> tuple[str, str | None]:
    """Return the text before and after an opening fence; (line, None) if no block opens."""
    stripped = line.lstrip()
    if stripped.startswith(FENCE):
        return "", stripped.removeprefix(FENCE)
    words = stripped.split(None, 2)
    if words[:2] == ["/set", "system"] and len(words) == 3 and words[2].startswith(FENCE):
        return "/set system ", words[2].removeprefix(FENCE)
    return line, None


def _plain(line: str) -> ChatInput | None:
    text = line.strip()
    return ChatInput(text, command=is_command(text)) if text else None
