"""The keys of the settings model, as paths: `("server", "host")`, `("models", "NAME", "keep_alive")`. Pure."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ollmlx.errors.secrets import is_secret_key
from ollmlx.settings.model import KeySettings, ModelSettings, Settings

KeyPath = tuple[str, ...]
NAMED: dict[KeyPath, type[BaseModel]] = {("models",): ModelSettings, ("security", "keys"): KeySettings}
"""Tables of tables, whose keys a person chooses, and the model of each."""
REMOVED: dict[KeyPath, str] = {
    ("runners", "stop_timeout"): "a runner that does not stop when asked is killed after 5 s",
    ("runners", "probe_interval"): "runners are probed every second",
    ("runners", "swap_wait"): "requests for a loaded model may pass one that would evict it for 5 s",
    ("runners", "restart_limit"): "ollmlx decides by itself when a failed runner is started again",
    ("runners", "restart_window"): "ollmlx decides by itself when a failed runner is started again",
    ("runners", "restart_pause"): "ollmlx decides by itself when a failed runner is started again",
    ("memory", "soft"): "a runner drops its caches at 85 % of its hard limit",
    ("memory", "hard"): "a runner is ended at 1.5 times its reservation",
    ("memory", "slack"): "a runner may always exceed its reservation by 512 MiB",
    ("plugins", "mlx", "float32_share"): "one model's unpacked weights may take 40 % of the memory budget",
    (
        "plugins",
        "llamacpp",
        "spin",
    ): "threads look for a while and then sleep, which is fast on an idle and a busy machine",
    ("plugins", "llamacpp", "prompt_batch"): "the batch follows from the size of the model",
}
"""Keys that an earlier version had, and what happens instead. Setting one is reported and changes nothing."""


def show_path(path: KeyPath) -> str:
    """Format a path for people: `[server] host`, `[models."a:1b"] parameters.seed`, `[aliases] "short"`."""
    if not path:
        return "settings"
    section, rest = path[0], path[1:]
    if section == "aliases":
        return " ".join(["[aliases]", *(f'"{part}"' for part in rest)])
    if path[:2] == ("security", "keys") and len(path) > 2:
        section, rest = f"security.keys.{path[2]}", path[3:]
    elif section in ("models", "plugins") and rest and not (section == "plugins" and field_at(path[:2])):
        head = f'"{rest[0]}"' if section == "models" else rest[0]
        section, rest = f"{section}.{head}", rest[1:]
    return " ".join(part for part in (f"[{section}]", ".".join(rest)) if part)


def dotted(path: KeyPath) -> str:
    """Format a path as one word, with parts quoted where TOML would quote them."""
    return ".".join(part if part.replace("_", "").replace("-", "").isalnum() else json.dumps(part) for part in path)


def variable(path: KeyPath) -> str:
    """The environment variable of a path: `OLLMLX_SERVER__HOST`."""
    return "OLLMLX_" + "__".join(part.upper() for part in path)


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was likely meant by an unknown one, or None."""
    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)


def keys_of(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a table, by the names that a file uses."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def field_at(path: KeyPath) -> FieldInfo | None:
    """The field that a path names, or None."""
    model: type[BaseModel] | None = Settings
    for table, named in NAMED.items():
        if path[: len(table)] == table and len(path) > len(table):
            model, path = named, path[len(table) + 1 :]
    field: FieldInfo | None = None
    for key in path:
        field = keys_of(model).get(key) if model else None
        model = model_of(field.annotation) if field else None
    return field


def table_at(path: KeyPath) -> type[BaseModel] | None:
    """The model of the table that a path names, or None when it is no table of fixed keys."""
    if not path:
        return Settings
    if path[:-1] in NAMED:
        return NAMED[path[:-1]]
    field = field_at(path)
    return None if field is None else model_of(field.annotation)


def model_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside of an annotation such as `Annotated` or a union with None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (types.UnionType, typing.Union, typing.Annotated):
        return next((found for arg in get_args(annotation) if (found := model_of(arg)) is not None), None)
    return None


def readers(field: FieldInfo) -> list[Any]:
    """The functions that parse the text of a field (`parse_size`)."""
    return [getattr(item, "func", None) for item in (*field.metadata, *_metadata(field.annotation))]


def _metadata(annotation: Any) -> list[Any]:
    own = list(annotation.__metadata__) if get_origin(annotation) is typing.Annotated else []
    return own + [item for argument in get_args(annotation) for item in _metadata(argument)]


def is_list(field: FieldInfo | None) -> bool:
    """True if a field holds a list."""
    return field is not None and get_origin(field.annotation) is tuple


def is_secret(path: KeyPath) -> bool:
    """True if the value at a path must be masked: by the mark of the field, or by its name."""
    if path[:-1] == ("security", "keys"):  # a value where its table should be may be the key itself
        return True
    return is_marked_secret(field_at(path)) or any(is_secret_key(part) for part in path[1:])


def is_marked_secret(field: FieldInfo | None) -> bool:
    """True if the definition of a field says `json_schema_extra={"secret": True}`."""
    extra = field.json_schema_extra if field else None
    return isinstance(extra, dict) and bool(extra.get("secret"))


def sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections with fixed keys, in the order of the file."""
    for name, field in Settings.model_fields.items():
        model = model_of(field.annotation)
        if model is not None:
            yield name, model
