"""`ollmlx run` with a model that hears, audio files in and text out; and with one that speaks, the other way."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ollmlx.cli.client import Client
from ollmlx.cli.terminal import is_terminal, say
from ollmlx.errors import InvalidRequest, OllmlxError


def transcribe(client: Client, model: str, files: Sequence[str]) -> int:
    """Print what is spoken in each file as it is heard, a sentence a line."""
    if not files:
        hint = f"ollmlx run {model} talk.wav"
        raise InvalidRequest(f"{model!r} writes down what is spoken: give it audio files", hint=hint)
    for file in files:
        done = False
        for line in client.send_file("/v1/audio/transcriptions", {"model": model, "stream": "true"}, Path(file)):
            if not line.startswith(b"data: "):  # an empty line, or a sign of life
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                raise OllmlxError(str(event["error"]["message"]))
            if event["type"] == "transcript.text.delta":
                say(event["delta"].strip(), flush=True)
            done = done or event["type"] == "transcript.text.done"
        if not done:
            raise OllmlxError(f"{client.address} closed the connection in the middle of its answer", hint="ollmlx logs")
    return 0


def speak(client: Client, model: str, text: str) -> int:
    """Write a text, spoken, as a WAV file to standard output, which is no terminal."""
    if not text or is_terminal(sys.stdout):
        raise InvalidRequest(
            f"{model!r} speaks: give it a text, and a file", hint=f'ollmlx run {model} "Hello" > hello.wav'
        )
    body = {"model": model, "input": text, "response_format": "wav"}
    sys.stdout.buffer.write(client.fetch("/v1/audio/speech", body))
    return 0
