"""`ollmlx run`: answer a prompt, or chat."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ollmlx.cli.answer import THINK_LEVELS, Display, figures, finished
from ollmlx.cli.client import Client, Json, stated
from ollmlx.cli.connection import connect, ensure_daemon
from ollmlx.cli.media import quoted, take_media
from ollmlx.cli.speech import speak, transcribe
from ollmlx.cli.terminal import is_terminal
from ollmlx.cli.transfer import pull
from ollmlx.errors import InvalidRequest, NotFound

OPTIONAL_VALUES = {"--think": "true"}
"""Options that may stand without a value, and the value that they then have."""


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = """Answer a prompt, or open a chat if there is none. With a model that hears, the prompt
is audio files, and their text is printed; one that speaks writes a WAV file:
ollmlx run piper:joe "Hello" > hello.wav

Starts a daemon in the background if none answers, and pulls the model if it is not installed. Text from a pipe comes
before the prompt: git diff | ollmlx run MODEL "Summarise this change"."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("prompt", metavar="PROMPT", nargs="*", default=[])
    parser.add_argument("--verbose", action="store_true", help="print durations, counts and rates after the answer")
    parser.add_argument("--format", metavar="FORMAT", type=answer_format, help="json, or a JSON schema")
    parser.add_argument(
        "--think", metavar="LEVEL", type=thinking, help="--think, --think=false, or =low, =medium, =high, =max"
    )
    parser.add_argument("--hidethinking", action="store_true", help="do not print the model's thinking")
    parser.add_argument("--keepalive", metavar="TIME", type=keep_alive, help="how long the model stays loaded: 5m, -1")
    parser.add_argument("--nowordwrap", action="store_true", help="do not break lines between words")
    parser.add_argument("--truncate", type=boolean, metavar="BOOL", help="cut texts that are too long to embed")
    parser.add_argument("--dimensions", metavar="N", type=int, help="length of an embedding")
    parser.add_argument("--insecure", action="store_true", help="use plain HTTP for the registry, without TLS")


def run_run(args: argparse.Namespace) -> int:
    client = connect(args)
    ensure_daemon(client, args)
    shown = show_or_pull(client, args.model, insecure=args.insecure)
    capabilities = shown.get("capabilities", [])
    if "transcription" in capabilities:
        return transcribe(client, args.model, args.prompt)
    if "speech" in capabilities:
        return speak(client, args.model, " ".join(filter(None, (read_piped(), *args.prompt))))
    piped, typed = read_piped(), " ".join(map(quoted, args.prompt))
    prompt = " ".join(filter(None, (piped, *args.prompt)))
    if "embedding" in capabilities and "completion" not in capabilities:
        return embed(client, args, prompt)
    if prompt or not is_terminal(sys.stdin) or not is_terminal(sys.stdout):
        left, images = take_media(client, args.model, typed)
        return answer(client, args, " ".join(filter(None, (piped, left))) if images else prompt, images)
    from ollmlx.cli.chat.loop import chat  # imported when used: it costs start-up time

    return chat(client, args)


def show_or_pull(client: Client, model: str, *, insecure: bool = False) -> Json:
    """Return `/api/show` of a model; pull the model first if it is not installed."""
    try:
        shown: Json = client.post("/api/show", {"model": model})
    except NotFound:
        pull(client, model, insecure=insecure)
        shown = client.post("/api/show", {"model": model})
    return shown


def read_piped() -> str:
    """Return the text from a pipe."""
    return "" if sys.stdin is None or is_terminal(sys.stdin) else sys.stdin.read()


def answer(client: Client, args: argparse.Namespace, prompt: str, images: list[str]) -> int:
    """Print the answer to a prompt on standard output. Without a prompt, only load the model."""
    body: Json = {"model": args.model, "prompt": prompt}
    body |= stated(images=images or None, format=args.format, think=args.think, keep_alive=args.keepalive)
    if not prompt and not images:
        client.post("/api/generate", {**body, "stream": False})
        return 0
    display = Display(sys.stdout, wrap=not args.nowordwrap, hide_thinking=args.hidethinking)
    shown = display.show(client.stream("/api/generate", body, ended=finished))
    if shown.interrupted:
        raise KeyboardInterrupt
    if args.verbose:
        print(figures(shown.final), file=sys.stderr)
    return 0


def embed(client: Client, args: argparse.Namespace, prompt: str) -> int:
    """Print the embedding of a prompt as JSON."""
    if not prompt:
        raise InvalidRequest(
            f"{args.model!r} makes embeddings: give it a text", hint=f'ollmlx run {args.model} "a text"'
        )
    body: Json = {"model": args.model, "input": prompt}
    body |= stated(keep_alive=args.keepalive, truncate=args.truncate, dimensions=args.dimensions)
    print(json.dumps(client.post("/api/embed", body)["embeddings"][0]))
    return 0


def answer_format(text: str) -> Any:
    """Parse `json`, or a JSON schema as an object."""
    if text == "json":
        return text
    try:
        schema = json.loads(text)
    except ValueError:
        schema = None
    if not isinstance(schema, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 'json' nor a JSON schema")
    return schema


def thinking(text: str) -> bool | str:
    """Parse `true`, `false` or a level."""
    if text in THINK_LEVELS:
        return text
    return boolean(text, f"{text!r} is not true, false, {', '.join(THINK_LEVELS)}")


def boolean(text: str, message: str | None = None) -> bool:
    """Parse `true`, `false`, `1` or `0`."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(message or f"{text!r} is not true or false")
    return text.lower() in ("true", "1")


def keep_alive(text: str) -> str | float:
    """Check a Go duration and return it unchanged; a bare number is seconds."""
    from ollmlx.text.quantities import parse_duration

    try:
        parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    try:
        return float(text)
    except ValueError:
        return text
