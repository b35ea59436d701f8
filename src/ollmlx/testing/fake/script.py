"""The behaviour of fake models: set for all requests by engine options, and for one by control words in its prompt.

A control word is `fake:KEY=VALUE` between spaces; the value is percent-decoded (`%20` is a space). Control words are
not part of the prompt: `hello fake:rate=5 world` is the prompt `hello world`, answered at five tokens a second.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import unquote

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from ollmlx.errors import InvalidRequest
from ollmlx.types import Capability, Frozen

ALL_CAPABILITIES: tuple[Capability, ...] = ("completion", "tools", "insert", "thinking", "embedding", "rerank")
_WORD = re.compile(r"(?:(?<=\s)|^)fake:([a-z_]+)=(\S*)(?:\s|$)")


class Script(Frozen):
    """One fake model's behaviour. The defaults make it behave well.

    Faults are written `NAME` or `NAME:ARGUMENT`, and `fault` also `…@WHERE`, where WHERE is `start` (before any event),
    `prefill` (after the first prefill step) or the number of tokens after which it strikes. The names are those of
    `ollmlx.testing.fake.faults`.
    """

    say: str | None = Field(None, description="The answer. Default: the prompt, or the last message.")
    tokens: Annotated[int, Field(ge=0)] | None = Field(None, description="Answer with this many numbered tokens.")
    think: str | None = Field(None, description="Reason in these words first.")
    tool: str | None = Field(None, description="Call this function instead of answering.")
    tool_args: str = Field("{}", description="Its arguments, as a JSON object.")
    play: str | None = Field(None, description="File with one answer for each request (ollmlx.testing.fake.play).")
    rate: Annotated[float, Field(ge=0)] = Field(0, description="Tokens a second. 0: as fast as possible.")
    prefill: Annotated[int, Field(ge=0)] = Field(1, description="Prefill steps, an event each.")
    prefill_ms: Annotated[float, Field(ge=0)] = Field(0, description="Length of a prefill step in milliseconds.")
    fault: str | None = Field(None, description="The fault of a request, and where it strikes.")
    fault_spawns: int | None = Field(None, description="Faults strike only in the first N processes (needs spawn_log).")
    spawn_log: str | None = Field(None, description="File to which each process adds a line with its process id.")
    load_fault: str | None = Field(None, description="The fault of loading.")
    load_steps: Annotated[int, Field(ge=0)] = Field(0, description="Loading makes this many visible steps.")
    load_ms: Annotated[float, Field(ge=0)] = Field(0, description="Length of a load step in milliseconds.")
    close_fault: str | None = Field(None, description="The fault of closing.")
    ignore_term: bool = Field(False, description="Ignore SIGTERM.")
    children: Annotated[int, Field(ge=0)] = Field(0, description="Start this many sleeping child processes.")
    escaped_children: Annotated[int, Field(ge=0)] = Field(0, description="The same, in process groups of their own.")
    memory_mib: Annotated[int, Field(ge=0)] = Field(0, description="Touch this much memory while loading.")
    protocol: int = Field(1, description="The protocol version that the status states.")
    parallel: Annotated[int, Field(ge=1)] = Field(4, description="Requests served at once, unless the daemon says.")
    dimensions: Annotated[int, Field(ge=1)] = Field(16, description="Length of embedding vectors.")
    wrong_answers: Literal["", "cache", "batch", "repeat", "seed", "schema", "stop", "cancel", "blind"] = Field(
        "", description="The promise that its answers break.", validation_alias=AliasChoices("wrong_answers", "lie")
    )
    cache: bool = Field(True, description="Count the longest common prefix with earlier prompts as cached.")


class FakeSettings(BaseModel):
    """`[plugins.fake]`: the fake models that a daemon has without any file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[str, Script] = Field({}, description="Fake models that are installed from the start.")
    weights: int = Field(10 * 1024 * 1024, description="Bytes that each model needs.")
    capabilities: tuple[Capability, ...] = Field(ALL_CAPABILITIES, description="Capabilities of the models.")
    context_length: int = Field(4096, description="Their context length in tokens.")


def directed(script: Script, text: str) -> tuple[Script, str]:
    """Return the script with the text's control words laid over it, and the text without them.

    Raises InvalidRequest for a control word that is not in `Script`: a mistyped fault must not look like success.
    """
    words = {key: unquote(value) for key, value in _WORD.findall(text)}
    if not words:
        return script, text
    try:
        wanted = Script.model_validate_strings(words)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidRequest(f"control word fake:{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    update = {key: getattr(wanted, key) for key in wanted.model_fields_set}
    return script.model_copy(update=update), _WORD.sub("", text).strip()
