"""The chat loop: reads lines, sends turns, prints answers."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from ollmlx.cli.answer import Display, finished, numbers
from ollmlx.cli.chat.commands import Session, execute
from ollmlx.cli.chat.conversation import Conversation
from ollmlx.cli.chat.lines import FENCE, Entry, Lines
from ollmlx.cli.client import Client, Json
from ollmlx.cli.main import report
from ollmlx.cli.spinner import Spinner
from ollmlx.cli.terminal import unechoed
from ollmlx.errors import OllmlxError

PLACEHOLDER = "Send a message (/? for help)"
PLACEHOLDER_IN_BLOCK = 'Use """ to end multi-line input'


def chat(client: Client, args: argparse.Namespace) -> int:
    """Talk until /bye or Ctrl-D."""
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
    reader = _Reader(session, _history_file(args))
    while not session.over:
        entry = reader.read()
        if entry is None:
            break
        try:
            if entry.command:
                execute(session, entry.text)
            else:
                _turn(session, entry.text, hide_thinking=args.hidethinking)
        except OllmlxError as error:
            report(error)
        except KeyboardInterrupt:
            print()
    return 0


def _turn(session: Session, text: str, *, hide_thinking: bool) -> None:
    conversation = session.conversation
    conversation.ask(text)
    display = Display(sys.stdout, wrap=session.wordwrap, hide_thinking=hide_thinking)
    try:
        answer = display.show(session.client.stream("/api/chat", conversation.request(), ended=finished))
    except OllmlxError:
        conversation.unask()
        raise
    conversation.hear(answer)
    if session.verbose and answer.final:
        print(numbers(answer.final) + "\n", file=sys.stderr)


class _Reader:
    """Reads one input at a time from the terminal."""

    def __init__(self, session: Session, file: Path | None) -> None:
        kept: History = FileHistory(str(file)) if file is not None else InMemoryHistory()
        self._prompt: PromptSession[str] = PromptSession(history=_Switched(kept, session))
        self._lines = Lines()
        self._pasted: list[str] = []

    def read(self) -> Entry | None:
        """The next input; None at Ctrl-D."""
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
            if (entry := self._lines.feed(line)) is not None:
                return entry

    def _line(self) -> str:
        """The next line. Of a pasted block, one line after the other; any other pasted text is one line."""
        if not self._pasted:
            text = self._ask()
            self._pasted = text.split("\n") if self._lines.open or FENCE in text else [text]
        return self._pasted.pop(0)

    def _ask(self) -> str:
        sign, hint = ("... ", PLACEHOLDER_IN_BLOCK) if self._lines.open else (">>> ", PLACEHOLDER)
        return self._prompt.prompt(sign, placeholder=FormattedText([("fg:ansibrightblack", hint)]))


class _Switched(History):
    """A history that keeps what is typed only while the session says so."""

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
    """The private file of what was typed; None when OLLAMA_NOHISTORY is set or the state folder cannot be used."""
    from ollmlx.cli.configured import settings

    if os.environ.get("OLLAMA_NOHISTORY", "").lower() not in ("", "0", "false"):
        return None
    file = settings(args).state_folder / "history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
    except OSError as error:
        print(f"what you type is not kept: {file}: {error.strerror}", file=sys.stderr)
        return None
    return file
