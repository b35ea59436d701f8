"""ollmlx: an Ollama-compatible model server for MLX.

These names, and the vocabulary in `ollmlx.types`, are what plugins may use; route families also have `ollmlx.web`, and
tests have `ollmlx.testing`. Everything is imported on first use, so that importing a plugin costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ollmlx.contracts import (
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
    from ollmlx.download import Download, redirected, storage_error
    from ollmlx.errors import OllmlxError
    from ollmlx.findings import Finding, Severity
    from ollmlx.gguf_header import GgufHeader, read_gguf_header
    from ollmlx.hookspecs import hookimpl
    from ollmlx.locks import locked
    from ollmlx.names import ModelName, parse_digest
    from ollmlx.protocol import RunnerConfig
    from ollmlx.quantities import format_count, format_duration, format_size, parse_duration, parse_size
    from ollmlx.runner.serial import SerialEngine
    from ollmlx.safetensors_header import SafetensorsTensor, read_safetensors_header
    from ollmlx.service import Service
    from ollmlx.streams import closing
    from ollmlx.supervisor.budget import ThisMachine, find_budget
    from ollmlx.templates import as_jinja, check_template

__version__ = "0.1.0"

_HOMES = {
    "ollmlx.contracts": (
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
    "ollmlx.download": ("Download", "redirected", "storage_error"),
    "ollmlx.errors": ("OllmlxError",),
    "ollmlx.findings": ("Finding", "Severity"),
    "ollmlx.gguf_header": ("GgufHeader", "read_gguf_header"),
    "ollmlx.hookspecs": ("hookimpl",),
    "ollmlx.locks": ("locked",),
    "ollmlx.names": ("ModelName", "parse_digest"),
    "ollmlx.protocol": ("RunnerConfig",),
    "ollmlx.quantities": ("format_count", "format_duration", "format_size", "parse_duration", "parse_size"),
    "ollmlx.runner.serial": ("SerialEngine",),
    "ollmlx.safetensors_header": ("SafetensorsTensor", "read_safetensors_header"),
    "ollmlx.service": ("Service",),
    "ollmlx.streams": ("closing",),
    "ollmlx.supervisor.budget": ("ThisMachine", "find_budget"),
    "ollmlx.templates": ("as_jinja", "check_template"),
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
