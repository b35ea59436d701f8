"""Plays: the answers of a fake model, written down in a file, one for each request of an agent.

The file is a JSON list of steps, as `[{"when": "passed", "say": "Done."}]`. A request takes the next step if `when`, a
regular expression, is found in what is new in it. A step without `when` belongs to the next request that offers tools.
Other requests, such as an agent's request for a title, are answered with `ASIDE`, and the play stays where it is.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import TypeAdapter

from ollmlx.types import Frozen, GenerateRequest, ToolCall

ASIDE = "This is not my turn."


class PlayStep(Frozen):
    """One answer: a thought, a text and calls of tools. `cut`: the answer ends as if its length were reached.

    `optional`: the step is left out when the request belongs to the next one that is not.
    """

    when: str = ""
    think: str = ""
    say: str = ""
    calls: tuple[ToolCall, ...] = ()
    cut: bool = False
    optional: bool = False


_STEPS = TypeAdapter(tuple[PlayStep, ...])


class Play:
    """The steps of one file, and which of them comes next."""

    def __init__(self, file: Path) -> None:
        """Raises OSError, and ValidationError for a file that is no play."""
        self._steps = _STEPS.validate_json(file.read_bytes())
        self._next = 0

    def step(self, request: GenerateRequest) -> PlayStep:
        """Return the answer to a request."""
        for index in range(self._next, len(self._steps)):
            if _belongs(self._steps[index], request):
                self._next = index + 1
                return self._steps[index]
            if not self._steps[index].optional:
                break
        return PlayStep(say=ASIDE)


def _belongs(step: PlayStep, request: GenerateRequest) -> bool:
    if not step.when:
        return bool(request.tools)
    return re.search(step.when, _news(request)) is not None


def _news(request: GenerateRequest) -> str:
    """Return the text of the messages since the last answer; an image is `[image]`."""
    texts = [request.prompt or ""]
    for message in request.messages:
        texts = [] if message.role == "assistant" else [*texts, message.content, *("[image]" for _ in message.images)]
    return "\n".join(texts)
