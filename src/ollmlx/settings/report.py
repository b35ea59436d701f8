"""The effective settings, each with its origin and the values it overrode. Secrets are masked. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ollmlx.errors.secrets import mask_text, mask_value
from ollmlx.settings.faults import Origin
from ollmlx.settings.keys import KeyPath, dotted, is_secret, keys_of, readers
from ollmlx.settings.load import LoadedSettings
from ollmlx.text.quantities import format_duration, parse_duration, parse_size, write_size


@dataclass(frozen=True, slots=True)
class Effective:
    """One key: its value as JSON can hold it, its origin, and the weaker origins that set it to something else."""

    path: KeyPath
    value: Any
    origin: Origin
    overrides: tuple[tuple[Any, Origin], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Stable fields: key, value, origin, source, and overrides (value, source)."""
        return {
            "key": dotted(self.path),
            "value": self.value,
            "origin": self.origin.kind,
            "source": str(self.origin),
            "overrides": [{"value": value, "source": str(origin)} for value, origin in self.overrides],
        }


def effective(loaded: LoadedSettings, hidden: Callable[[KeyPath], bool] = is_secret) -> list[Effective]:
    """Every key of every section, every alias, every key that a declared model sets.

    hidden: whether the value of a key must be masked.
    """
    found = []
    for path, value in _walk(loaded.settings):
        secret = hidden(path)
        weaker = tuple(
            (_plain(shadowed.value, secret=secret), shadowed.origin)
            for shadowed in loaded.shadowed
            if shadowed.path == path
        )
        found.append(Effective(path, _plain(value, secret=secret), loaded.origin(path), weaker))
    return found


def _walk(settings: BaseModel) -> Iterator[tuple[KeyPath, Any]]:
    for section in type(settings).model_fields:
        value = getattr(settings, section)
        if isinstance(value, BaseModel):
            for path, item in _fields(value):
                yield (section, *path), item
            continue
        for name, item in value.items():
            if isinstance(item, BaseModel):
                set_fields = [(path, inner) for path, inner in _fields(item) if inner not in (None, False, {})]
                yield from (((section, name, *path), inner) for path, inner in set_fields)
                if not set_fields:
                    yield (section, name), {}
            else:
                yield (section, name), item


def _fields(model: BaseModel) -> Iterator[tuple[KeyPath, Any]]:
    for key, field in keys_of(type(model)).items():
        name = next(name for name, other in type(model).model_fields.items() if other is field)
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from (((key, *path), inner) for path, inner in _fields(value))
        elif isinstance(value, Mapping) and value:
            yield from (((key, inner), item) for inner, item in value.items())
        else:
            yield (key,), _written(field, value)
    for key, value in (model.model_extra or {}).items():
        if isinstance(value, Mapping) and value:
            yield from (((key, inner), item) for inner, item in value.items())
        else:
            yield (key,), value


def _written(field: FieldInfo, value: Any) -> Any:
    """Write a duration or a size as the file does."""
    known = readers(field)
    if isinstance(value, float) and (parse_duration in known or math.isinf(value)):
        return format_duration(value)
    return write_size(value) if parse_size in known and type(value) is int else value


def _plain(value: Any, *, secret: bool) -> Any:
    """Convert a value for JSON, which has no paths, tuples or infinity; mask secrets, also inside of texts."""
    if secret:
        return mask_value(list(value) if isinstance(value, tuple) else value)
    if isinstance(value, Path | str):
        return mask_text(str(value))
    if isinstance(value, tuple | list):
        return [_plain(item, secret=False) for item in value]
    return format_duration(value) if isinstance(value, float) and math.isinf(value) else value
