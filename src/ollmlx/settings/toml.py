"""The reference file `ollmlx.toml`, generated from the settings model. Pure."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ollmlx.settings.keys import keys_of, readers, sections
from ollmlx.settings.model import ClusterSettings, ModelSettings, Settings
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
    "template": '"{{ messages }}"',
}
_TABLES = {
    "plugins": 'A plugin\'s own settings, in a table of its name:\n[plugins.NAME]\nkey = "value"',
    "aliases": '"brief" = "mlx-community/Llama-3.2-3B-Instruct-4bit"',
}


def reference(*, commented: bool = False) -> str:
    """Return the whole file. `commented`: every key is behind a `#`, so that defaults of later versions apply."""
    mark = "#" if commented else ""
    blocks = [_comment(HEAD)]
    for section, model in sections():
        blocks.append(f"{_comment(model.__doc__ or '')}\n[{section}]")
        for key, field in keys_of(model).items():
            blocks.append(
                f"{_comment(_describe(section, field))}\n{mark}{key} = {toml_value(written_default(model, field))}"
            )
        if section in _TABLES:
            blocks.append(_comment(_TABLES[section]))
    aliases = Settings.model_fields["aliases"].description or ""
    blocks.append(f"{_comment(aliases)}\n[aliases]\n{_comment(_TABLES['aliases'])}")
    blocks.append(_models())
    return "\n\n".join(blocks) + "\n"


def _models() -> str:
    lines = [_comment(f"{ModelSettings.__doc__} Uncomment what you need.")]
    lines += ["#", '# [models."brief"]']
    for key, field in keys_of(ModelSettings).items():
        if key == "cluster":
            continue
        example = _EXAMPLES.get(key) or toml_value(field.get_default(call_default_factory=True))
        lines.append(f"# {key} = {example}  # {field.description}")
    lines += ["#", f"# {ClusterSettings.__doc__}", '# [models."brief".cluster]']
    for key, field in keys_of(ClusterSettings).items():
        lines.append(f"# {key} = {toml_value(written_default(ClusterSettings, field))}  # {field.description}")
    return "\n".join(lines)


def _describe(section: str, field: FieldInfo) -> str:
    return field.description or section


def written_default(model: type[BaseModel], field: FieldInfo) -> Any:
    """Return a default as a person would write it: durations as "5m", sizes as "4GiB"."""
    name = next(name for name, other in model.model_fields.items() if other is field)
    value = getattr(model(), name)
    known = readers(field)
    if parse_duration in known:
        return format_duration(value)
    return write_size(value) if parse_size in known and isinstance(value, int) else value


def toml_value(value: Any) -> str:
    """Return a value in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + " }" if value else "{}"
    if isinstance(value, Path):
        return json.dumps(str(value))
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> str:
    lines: list[str] = []
    for line in text.strip().split("\n"):
        lines += textwrap.wrap(line, WIDTH) or [""]
    return "\n".join(f"# {line}".rstrip() for line in lines)
