"""The objects that describe models: `/api/tags`, `/api/ps`, `/api/show`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ollmlx.types import InstalledModel, Message, ModelDetails, RunnerInfo
from ollmlx_ollama_api.clock import expiry, stamp
from ollmlx_ollama_api.modelfile_text import modelfile, parameters

Json = dict[str, Any]

LISTED = frozenset({"starting", "ready", "busy", "stopping"})
"""States in which a runner is a loaded model for Ollama's clients."""


def details(model: ModelDetails, *, lengths: bool = False) -> Json:
    """The details block; with the lengths where they are known."""
    found: Json = {
        "parent_model": model.parent_model,
        "format": model.format,
        "family": model.family,
        "families": list(model.families),
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization_level,
    }
    if lengths:
        known = {"context_length": model.context_length, "embedding_length": model.embedding_length}
        found |= {name: value for name, value in known.items() if value is not None}
    return found


def tags(models: Iterable[InstalledModel]) -> Json:
    """The answer of `/api/tags`."""
    return {"models": [_tag(model) for model in models]}


def _tag(model: InstalledModel) -> Json:
    return {
        "name": str(model.name),
        "model": str(model.name),
        "modified_at": stamp(model.modified_at),
        "size": model.size,
        "digest": model.digest,
        "details": details(model.details, lengths=True),
        "capabilities": list(model.capabilities),
    }


def ps(runners: Sequence[RunnerInfo]) -> Json:
    """The answer of `/api/ps`: those that stay longest first. Ollama's fields, then ollmlx's own."""
    loaded = [runner for runner in runners if runner.state in LISTED]
    return {"models": sorted((_runner(runner) for runner in loaded), key=lambda item: item["expires_at"], reverse=True)}


def _runner(runner: RunnerInfo) -> Json:
    size = max(runner.memory, runner.memory_gpu, runner.reserved if not runner.memory else 0)
    return {
        "name": str(runner.model.name),
        "model": str(runner.model.name),
        "size": size,
        "digest": runner.model.digest,
        "details": details(runner.model.details),
        "expires_at": expiry(runner.expires_at),
        "size_vram": min(runner.memory_gpu, size),
        "context_length": runner.context_length,
        "runner": runner.id,
        "backend": runner.backend,
        "state": str(runner.state),
        "pid": runner.pid,
        "device": runner.device,
        "parallel": runner.parallel,
        "active": runner.active,
        "reserved": runner.reserved,
        "restarts": runner.restarts,
        "prompt_tokens": runner.prompt_tokens,
        "cached_tokens": runner.cached_tokens,
        "last_error": runner.last_error,
        "notes": list(runner.notes),
    }


def show(model: InstalledModel, *, tensors: Sequence[Json] | None = None) -> Json:
    """The answer of `/api/show`; `tensors` when asked for in full."""
    defaults = model.defaults
    found: Json = {
        "license": "\n".join(defaults.license),
        "modelfile": modelfile(model),
        "parameters": parameters(defaults.options),
        "template": defaults.template or model.chat_template or "",
        "system": defaults.system or "",
        "details": details(model.details, lengths=True),
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
    """One turn of a conversation."""
    found: Json = {"role": turn.role, "content": turn.content}
    if turn.images:
        found["images"] = list(turn.images)
    return found


def _info(model: InstalledModel) -> Json:
    """Metadata; never empty, and with the context length under the architecture's name, where clients look for it."""
    found = {key: value for key, value in model.info.items() if value is not None}
    architecture = str(found.setdefault("general.architecture", model.details.family or model.format))
    if model.details.context_length is not None:
        found.setdefault(f"{architecture}.context_length", model.details.context_length)
    if model.details.embedding_length is not None:
        found.setdefault(f"{architecture}.embedding_length", model.details.embedding_length)
    return found
