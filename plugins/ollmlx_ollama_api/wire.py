"""What all bodies of Ollama's API have in common: tolerance for strangers' fields, and for null."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from ollmlx import ModelName, parse_duration
from ollmlx.errors import InvalidRequest

LONGEST = 200 * 365 * 86400.0  # seconds; whoever asks for longer means for ever


class Wire(BaseModel):
    """A JSON body: unknown fields are ignored, null is as good as absent, types must be right."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if isinstance(data, dict):
            return {key: value for key, value in data.items() if value is not None}
        return data


def _keep_alive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"invalid keep_alive {value!r}")  # noqa: TRY004 - pydantic collects ValueErrors
    try:
        seconds = parse_duration(value)
    except ValueError:
        raise ValueError(f'time: invalid duration "{value}"') from None
    except OverflowError:
        return math.inf
    return math.inf if seconds > LONGEST else seconds


_DURATION = Annotated[str, Field(pattern=r"^-?([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h|d))+$")]  # in the description only
KeepAlive = Annotated[float, PlainValidator(_keep_alive, json_schema_input_type=float | _DURATION)]
"""Seconds a model stays loaded: a number, or a Go duration; negative is for ever."""


class Named(Wire):
    """A body that names a model, in the field `model` or the older `name`."""

    model: str = ""
    name: str = ""

    @property
    def asked(self) -> str:
        """The name as the client wrote it."""
        return self.model or self.name

    def model_name(self) -> ModelName:
        """The parsed name. Raises InvalidRequest."""
        if not self.asked:
            raise InvalidRequest("model is required")
        return parse_name(self.asked)


def parse_name(text: str, message: str = "invalid model name") -> ModelName:
    """A name, refused with Ollama's sentence; the reason goes along as the hint."""
    try:
        return ModelName.parse(text)
    except InvalidRequest as error:
        raise InvalidRequest(message, code=error.code, hint=error.message) from error
