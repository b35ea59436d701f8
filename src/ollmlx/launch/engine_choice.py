"""The choice of an engine: which one this machine keeps a foreign format for, and why a model's engine was chosen."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from ollmlx.errors import PluginError
from ollmlx.plugin.contracts import Backend, DeviceAware, knows_device
from ollmlx.plugin.registry import Registry
from ollmlx.types import InstalledModel


@dataclass(frozen=True)
class EngineChoice:
    """The backend that runs a model, and the reason in one sentence."""

    backend: str
    why: str


def backend_that_keeps(format: str, registry: Registry) -> DeviceAware | None:
    """Return the backend for which a file of this format is kept as it is, or None where an import is faster.

    A file is imported where the backend of the importer has a GPU, and where no other backend runs the file.
    """
    if importing_gpu(format, registry) is not None:
        return None
    for backend in registry.backends.values():
        with suppress(PluginError), registry.backends.errors_named(backend.name):
            if knows_device(backend) and format in backend.runs:
                return backend
    return None


def importing_gpu(format: str, registry: Registry) -> str | None:
    """Return the GPU of the first backend that imports a format and has one."""
    for backend in registry.backends.values():
        with suppress(PluginError), registry.backends.errors_named(backend.name):
            if knows_device(backend) and backend.importer(format) is not None and backend.device != "cpu":
                return backend.device
    return None


def explain(model: InstalledModel, backend: Backend, preferred: str | None, registry: Registry) -> EngineChoice:
    """Return the choice with its reason."""
    if preferred is not None:
        return EngineChoice(backend.name, "chosen by the request, the settings or the model")
    if not knows_device(backend):
        return EngineChoice(backend.name, f"it runs the format {model.format}")
    if model.format in backend.runs:
        gpu = importing_gpu(model.format, registry)
        reason = f"an import would run on {gpu}" if gpu else "on this machine without a GPU for MLX it is the fastest"
        return EngineChoice(backend.name, f"it runs {model.format.upper()} files as they are; {reason}")
    return EngineChoice(backend.name, f"the weights are in its own format; it computes on {backend.device}")
