"""ollmlx: an Ollama-compatible model server for MLX.

These names, and the vocabulary in `ollmlx.types`, are what plugins may use; route families also have `ollmlx.web`, and
tests have `ollmlx.testing`. Everything is imported on first use, so that importing a plugin costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ollmlx.errors import OllmlxError
    from ollmlx.errors.findings import Finding, Severity
    from ollmlx.formats.gguf import GgufHeader, read_gguf_header
    from ollmlx.formats.safetensors import SafetensorsTensor, read_safetensors_header
    from ollmlx.model.names import ModelName, parse_digest
    from ollmlx.model.streams import closing
    from ollmlx.model.templates import as_jinja, check_template
    from ollmlx.plugin.contracts import (
        Backend,
        Check,
        Engine,
        Guarded,
        Importer,
        LaunchOptions,
        PluginContext,
        Refusal,
        RunnerCommand,
        Source,
        Store,
        unguarded,
    )
    from ollmlx.plugin.hookspecs import hookimpl
    from ollmlx.protocol import RunnerConfig
    from ollmlx.runner.kit.serial import SerialEngine
    from ollmlx.service import Service
    from ollmlx.storekit.download import Download, redirected, storage_error
    from ollmlx.storekit.locks import locked
    from ollmlx.supervisor.scheduling.budget import ThisMachine, find_budget
    from ollmlx.text.quantities import format_count, format_duration, format_size, parse_duration, parse_size

__version__ = "0.1.0"

_HOMES = {
    "ollmlx.plugin.contracts": (
        "Backend",
        "Check",
        "Engine",
        "Guarded",
        "Importer",
        "LaunchOptions",
        "PluginContext",
        "Refusal",
        "RunnerCommand",
        "Source",
        "Store",
        "unguarded",
    ),
    "ollmlx.storekit.download": ("Download", "redirected", "storage_error"),
    "ollmlx.errors": ("OllmlxError",),
    "ollmlx.errors.findings": ("Finding", "Severity"),
    "ollmlx.formats.gguf": ("GgufHeader", "read_gguf_header"),
    "ollmlx.plugin.hookspecs": ("hookimpl",),
    "ollmlx.storekit.locks": ("locked",),
    "ollmlx.model.names": ("ModelName", "parse_digest"),
    "ollmlx.protocol": ("RunnerConfig",),
    "ollmlx.text.quantities": ("format_count", "format_duration", "format_size", "parse_duration", "parse_size"),
    "ollmlx.runner.kit.serial": ("SerialEngine",),
    "ollmlx.formats.safetensors": ("SafetensorsTensor", "read_safetensors_header"),
    "ollmlx.service": ("Service",),
    "ollmlx.model.streams": ("closing",),
    "ollmlx.supervisor.scheduling.budget": ("ThisMachine", "find_budget"),
    "ollmlx.model.templates": ("as_jinja", "check_template"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Backend",
    "Check",
    "Download",
    "Engine",
    "Finding",
    "GgufHeader",
    "Guarded",
    "Importer",
    "LaunchOptions",
    "ModelName",
    "OllmlxError",
    "PluginContext",
    "Refusal",
    "RunnerCommand",
    "RunnerConfig",
    "SafetensorsTensor",
    "SerialEngine",
    "Service",
    "Severity",
    "Source",
    "Store",
    "ThisMachine",
    "__version__",
    "as_jinja",
    "check_template",
    "closing",
    "find_budget",
    "format_count",
    "format_duration",
    "format_size",
    "hookimpl",
    "locked",
    "parse_digest",
    "parse_duration",
    "parse_size",
    "read_gguf_header",
    "read_safetensors_header",
    "redirected",
    "storage_error",
    "unguarded",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
