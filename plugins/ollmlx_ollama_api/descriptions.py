"""The objects that describe models (`/api/tags`, `/api/ps`, `/api/show`), and a model's Modelfile as text. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ollmlx.types import InstalledModel, Message, Options, RunnerInfo

Json = dict[str, Any]

FOREVER = timedelta(days=365 * 200)
"""The distance of the date that stands for "never": a date that every client can still read."""

LISTED = frozenset({"starting", "ready", "busy", "stopping"})
"""States in which a runner is a loaded model for Ollama's clients."""
_OWN_FIELDS = {"backend", "state", "pid", "device", "parallel", "active", "reserved", "restarts"} | {
    "prompt_tokens", "cached_tokens", "pool_tokens", "pool_used", "missed", "clients", "last_error", "notes"
}  # fmt: skip


def tags(models: Iterable[InstalledModel]) -> Json:
    return {"models": [_tag(model) for model in models]}


def _tag(model: InstalledModel) -> Json:
    return {
        "name": str(model.name),
        "model": str(model.name),
        "modified_at": stamp(model.modified_at),
        "size": model.size,
        "digest": model.digest,
        "details": model.details.model_dump(exclude_none=True),
        "capabilities": list(model.capabilities),
    }


def ps(runners: Sequence[RunnerInfo]) -> Json:
    """Return the answer of `/api/ps`: the model that stays longest comes first. ollmlx's own fields follow Ollama's."""
    loaded = [runner for runner in runners if runner.state in LISTED]
    return {"models": sorted((_runner(runner) for runner in loaded), key=lambda item: item["expires_at"], reverse=True)}


def _runner(runner: RunnerInfo) -> Json:
    size = max(runner.memory, runner.memory_gpu, runner.reserved if not runner.memory else 0)
    return {
        "name": str(runner.model.name),
        "model": str(runner.model.name),
        "size": size,
        "digest": runner.model.digest,
        "details": runner.model.details.model_dump(exclude={"context_length", "embedding_length"}),
        "expires_at": expiry(runner.expires_at),
        "size_vram": min(runner.memory_gpu, size),
        "context_length": runner.context_length,
        "runner": runner.id,
        **runner.model_dump(include=_OWN_FIELDS),
    }


def show(model: InstalledModel, *, tensors: Sequence[Json] | None = None) -> Json:
    """Return the answer of `/api/show`, with the tensors when they are given."""
    defaults = model.defaults
    found: Json = {
        "license": "\n".join(defaults.license),
        "modelfile": modelfile(model),
        "parameters": parameters(defaults.options),
        "template": defaults.template or model.chat_template or "",
        "system": defaults.system or "",
        "details": model.details.model_dump(exclude_none=True),
        "messages": [message(turn) for turn in defaults.messages],
        "model_info": _info(model),
        "projector_info": model.projector_info,
        "capabilities": list(model.capabilities),
        "modified_at": stamp(model.modified_at),
        "store": model.store,
        "source": model.source,
    }
    for name in ("license", "parameters", "system", "messages", "projector_info"):
        if not found[name]:
            del found[name]
    if tensors is not None:
        found["tensors"] = list(tensors)
    return found


def message(turn: Message) -> Json:
    found: Json = {"role": turn.role, "content": turn.content}
    if turn.images:
        found["images"] = list(turn.images)
    return found


def _info(model: InstalledModel) -> Json:
    """Return the metadata, never empty.

    Clients look for the context length under the architecture's name; Copilot shows the base name to its user.
    """
    found = {key: value for key, value in model.info.items() if value is not None}
    found.setdefault("general.basename", model.name.name)
    architecture = str(found.setdefault("general.architecture", model.details.family or model.format))
    if model.details.context_length is not None:
        found.setdefault(f"{architecture}.context_length", model.details.context_length)
    if model.details.embedding_length is not None:
        found.setdefault(f"{architecture}.embedding_length", model.details.embedding_length)
    return found


def stamp(moment: datetime) -> str:
    """Write a time as Ollama does: RFC 3339 with a zone."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def expiry(moment: datetime | None) -> str:
    """Write the time at which a model is unloaded; None means never."""
    return stamp(moment if moment is not None else datetime.now(UTC) + FOREVER)


def parameters(options: Options) -> str:
    """Return a line for each parameter that was set and for each stop string; strings are escaped to fit on a line."""
    return "\n".join(
        f"{name:<30} {json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _number(value)}"
        for name, value in _values(options)
    )


def modelfile(model: InstalledModel) -> str:
    """Return a Modelfile that makes the same model again."""
    defaults = model.defaults
    lines = [
        '# Modelfile generated by "ollmlx show"',
        "# To build a new Modelfile based on this, replace FROM with:",
        f"# FROM {model.name}",
        "",
        f"FROM {model.details.parent_model or model.name}",
    ]
    template = defaults.template or model.chat_template
    if template:
        lines.append(f"TEMPLATE {_quoted(template)}")
    if defaults.system:
        lines.append(f"SYSTEM {_quoted(defaults.system)}")
    lines += [f"PARAMETER {name} {_read_back(value)}" for name, value in _values(defaults.options)]
    if defaults.adapter is not None:
        lines.append(f"ADAPTER {defaults.adapter}")
    lines += [f"MESSAGE {turn.role} {_quoted(turn.content)}" for turn in defaults.messages]
    lines += [f"LICENSE {_quoted(text)}" for text in defaults.license]
    return "\n".join(lines) + "\n"


def _values(options: Options) -> list[tuple[str, Any]]:
    found = []
    for name, value in options.stated.items():
        if isinstance(value, tuple | list):
            found += [(name, item) for item in value]
        elif value is not None and not isinstance(value, dict):
            found.append((name, value))
    return found


def _read_back(value: Any) -> str:
    """Write a value in the grammar of Modelfiles, which has no escapes."""
    if not isinstance(value, str):
        return _number(value)
    return f'"""{value}"""' if '"' in value else f'"{value}"'


def _number(value: Any) -> str:
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if float(short) == value else repr(value)


def _quoted(text: str) -> str:
    if text and "\n" not in text and text == text.strip() and not text.startswith('"'):
        return text
    return f'"""{text}"""'
