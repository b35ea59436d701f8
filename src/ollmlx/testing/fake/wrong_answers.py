"""Answers that break a promise and look like any others: what the doctor's self-test has to find."""

from __future__ import annotations

from ollmlx.testing.fake.script import Script
from ollmlx.types import Event, GenerateRequest, Text


def untrue(request: GenerateRequest, script: Script) -> GenerateRequest:
    """The request as a model that does not keep to it takes it."""
    if script.lie == "schema":
        return request.model_copy(update={"format": None})
    if script.lie == "stop":
        return request.model_copy(update={"options": request.options.model_copy(update={"stop": ()})})
    return request


def spoilt(event: Event) -> Event:
    """Another token instead of the right one."""
    if not isinstance(event, Text) or not event.text:
        return event
    wrong = event.text[:-1] + ("#" if event.text[-1] != "#" else "%")
    logprobs = tuple(one.model_copy(update={"token": wrong}) for one in event.logprobs)
    return event.model_copy(update={"text": wrong, "logprobs": logprobs})


def honest_when_greedy(script: Script, request: GenerateRequest) -> Script:
    """A model that only forgets seeds says the truth where none is needed."""
    greedy = request.options.temperature == 0
    return script.model_copy(update={"lie": ""}) if script.lie == "seed" and greedy else script
