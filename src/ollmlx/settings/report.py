"""The settings as text: the effective values with their origins, and the reference file `ollmlx.toml`. Pure."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ollmlx.errors.secrets import mask_text, mask_value
from ollmlx.settings.faults import Origin
from ollmlx.settings.keys import NAMED, KeyPath, dotted, is_secret, readers, sections
from ollmlx.settings.load import LoadedSettings
from ollmlx.settings.model import ClusterSettings, KeySettings, ModelSettings, Settings
from ollmlx.text.quantities import format_duration, parse_duration, parse_size, write_size

WIDTH = 118
HEAD = """\
Settings of ollmlx: every key, with its default. Documentation: docs/configuration.md.

Order, strongest first: command line, OLLMLX_SECTION__KEY (OLLMLX_SERVER__HOST), Ollama's variables (OLLAMA_HOST),
this file (--config FILE, $OLLMLX_CONFIG, ./ollmlx.toml, ~/.config/ollmlx/ollmlx.toml), default.
Durations: 300, "5m", "1h30m"; a negative one has no end. Sizes: a number of bytes, "8GiB", "500MB".
"""
_EXAMPLES = {
    "from": '"mlx-community/Llama-3.2-3B-Instruct-4bit"',
    "system": '"Answer in one sentence."',
    "parameters": "{ temperature = 0.2, num_predict = 256 }",
    "context_length": "8192",
    "parallel": "4",
    "keep_alive": '"30m"',
    "request_timeout": '"10m"',
    "backend": '"mlx"',
    "draft": '"mlx-community/Llama-3.2-1B-Instruct-4bit"',
    "adapter": '"~/adapters/brief"',
    "key": '"a long random text"',
    "sha256": f'"{"0" * 64}"',
    "models": '["smollm2:135m", "qwen3*"]',
    "template": '"{{ messages }}"',
}
_PLUGIN_TABLE = 'A plugin\'s own settings, in a table of its name:\n[plugins.NAME]\nkey = "value"'
_ALIAS = '"brief" = "mlx-community/Llama-3.2-3B-Instruct-4bit"'


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


def _walk(settings: Settings) -> Iterator[tuple[KeyPath, Any]]:
    for section, value in settings:
        if isinstance(value, BaseModel):
            yield from (((section, *path), item) for path, item in _fields(value))
    for alias, target in settings.aliases.items():
        yield ("aliases", alias), target
    for name, model in settings.models.items():
        set_fields = [(path, value) for path, value in _fields(model) if value not in (None, False, {})]
        for path, value in set_fields or [((), {})]:
            yield ("models", name, *path), value


def _fields(model: BaseModel) -> Iterator[tuple[KeyPath, Any]]:
    fields = type(model).model_fields
    for name, value in model:
        key = fields[name].alias or name if name in fields else name
        if isinstance(value, BaseModel):
            yield from (((key, *path), inner) for path, inner in _fields(value))
        elif isinstance(value, Mapping) and value:
            for inner, item in value.items():
                if isinstance(item, BaseModel):
                    yield from (((key, inner, *path), leaf) for path, leaf in _fields(item) if leaf is not None)
                else:
                    yield (key, inner), item
        else:
            yield (key,), written(fields[name], value) if name in fields else value


def _plain(value: Any, *, secret: bool) -> Any:
    """Convert a value for JSON, which has no paths, tuples or infinity; mask secrets, also inside of texts."""
    if secret:
        return mask_value(value)
    if isinstance(value, Path | str):
        return mask_text(str(value))
    if isinstance(value, tuple | list):
        return [_plain(item, secret=False) for item in value]
    return format_duration(value) if isinstance(value, float) and math.isinf(value) else value


def written(field: FieldInfo, value: Any) -> Any:
    """Return a value of a field as a person would write it: durations as "5m", sizes as "4GiB"."""
    known = readers(field)
    if isinstance(value, float) and (parse_duration in known or math.isinf(value)):
        return format_duration(value)
    return write_size(value) if parse_size in known and type(value) is int else value


def written_default(model: type[BaseModel], key: str) -> Any:
    """Return the default of a field, by its name in the model, as a person would write it."""
    try:
        defaults = model()
    except ValidationError:  # a table that cannot be empty
        defaults = model.model_construct()
    return written(model.model_fields[key], getattr(defaults, key))


def reference(*, commented: bool = False) -> str:
    """Return the whole file. `commented`: every key is behind a `#`, so that defaults of later versions apply."""
    mark = "#" if commented else ""
    blocks = [_comment(HEAD)]
    for section, model in sections():
        blocks.append(f"{_comment(model.__doc__ or '')}\n[{section}]")
        for key, field in model.model_fields.items():
            value = toml_value(written_default(model, key))
            if (section, key) in NAMED:
                continue
            blocks.append(f"{_comment(field.description or section)}\n{mark}{key} = {value}")
        if section == "plugins":
            blocks.append(_comment(_PLUGIN_TABLE))
    aliases = Settings.model_fields["aliases"].description or ""
    blocks.append(f"{_comment(aliases)}\n[aliases]\n{_comment(_ALIAS)}")
    blocks.append(_models())
    blocks.append(_table("security.keys.anna", KeySettings))
    return "\n\n".join(blocks) + "\n"


def _models() -> str:
    lines = [_table('models."brief"', ModelSettings)]
    lines += ["#", f"# {ClusterSettings.__doc__}", '# [models."brief".cluster]']
    for key, field in ClusterSettings.model_fields.items():
        lines.append(f"# {key} = {toml_value(written_default(ClusterSettings, key))}  # {field.description}")
    return "\n".join(lines)


def _table(title: str, model: type[BaseModel]) -> str:
    """Return an example of a table that a person names."""
    lines = [_comment(f"{model.__doc__} Uncomment what you need."), "#", f"# [{title}]"]
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key != "cluster":
            example = _EXAMPLES.get(key) or toml_value(field.default)
            lines.append(f"# {key} = {example}  # {field.description}")
    return "\n".join(lines)


def toml_value(value: Any) -> str:
    """Return a value in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        items = ", ".join(f"{dotted((key,))} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {items} }}" if value else "{}"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


def _comment(text: str) -> str:
    lines = [wrapped for line in text.strip().split("\n") for wrapped in textwrap.wrap(line, WIDTH) or [""]]
    return "\n".join(f"# {line}".rstrip() for line in lines)
