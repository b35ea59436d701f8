"""ollmlx: an Ollama-compatible model server for MLX.

These names, and the vocabulary in `ollmlx.types`, are what plugins may use; route families also have `ollmlx.web`, and
tests have `ollmlx.testing`. Everything is imported on first use, so that importing a plugin costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ollmlx._lazy import lazy_exports

if TYPE_CHECKING:
    from ollmlx.errors import OllmlxError as OllmlxError
    from ollmlx.errors.findings import Finding as Finding
    from ollmlx.errors.findings import SafeCommand as SafeCommand
    from ollmlx.errors.findings import Severity as Severity
    from ollmlx.formats.gguf import GGUF_BLOCKS as GGUF_BLOCKS
    from ollmlx.formats.gguf import GgufHeader as GgufHeader
    from ollmlx.formats.gguf import GgufTensor as GgufTensor
    from ollmlx.formats.gguf import read_gguf_header as read_gguf_header
    from ollmlx.formats.ollama_gguf import DIALECT_KEY as DIALECT_KEY
    from ollmlx.formats.safetensors import SafetensorsTensor as SafetensorsTensor
    from ollmlx.formats.safetensors import mlx_tensor_name as mlx_tensor_name
    from ollmlx.formats.safetensors import quantization_of as quantization_of
    from ollmlx.formats.safetensors import read_safetensors_header as read_safetensors_header
    from ollmlx.formats.safetensors import unpacked_elements as unpacked_elements
    from ollmlx.helper import LimitExceeded as LimitExceeded
    from ollmlx.helper import run_limited as run_limited
    from ollmlx.model.events import closing as closing
    from ollmlx.model.modelfile import UNUSED_COMMANDS as UNUSED_COMMANDS
    from ollmlx.model.names import HUB_HOSTS as HUB_HOSTS
    from ollmlx.model.names import ModelName as ModelName
    from ollmlx.model.names import load_catalogue as load_catalogue
    from ollmlx.model.names import parse_digest as parse_digest
    from ollmlx.model.templates import MAX_TEMPLATE as MAX_TEMPLATE
    from ollmlx.model.templates import check_template as check_template
    from ollmlx.model.templates import is_go_template as is_go_template
    from ollmlx.model.templates import passes_tools as passes_tools
    from ollmlx.model.templates import render_template as render_template
    from ollmlx.plugin.contracts import Backend as Backend
    from ollmlx.plugin.contracts import Check as Check
    from ollmlx.plugin.contracts import Engine as Engine
    from ollmlx.plugin.contracts import Guarded as Guarded
    from ollmlx.plugin.contracts import Importer as Importer
    from ollmlx.plugin.contracts import LaunchOptions as LaunchOptions
    from ollmlx.plugin.contracts import PluginContext as PluginContext
    from ollmlx.plugin.contracts import Refusal as Refusal
    from ollmlx.plugin.contracts import RunnerCommand as RunnerCommand
    from ollmlx.plugin.contracts import Source as Source
    from ollmlx.plugin.contracts import Store as Store
    from ollmlx.plugin.contracts import unguarded as unguarded
    from ollmlx.plugin.hookspecs import hookimpl as hookimpl
    from ollmlx.protocol import RunnerConfig as RunnerConfig
    from ollmlx.runner.kit.serial import SerialEngine as SerialEngine
    from ollmlx.service import Service as Service
    from ollmlx.settings import Settings as Settings
    from ollmlx.storekit.download import Download as Download
    from ollmlx.storekit.download import redirected as redirected
    from ollmlx.storekit.files import storage_error as storage_error
    from ollmlx.storekit.staging import locked as locked
    from ollmlx.supervisor.machine import ThisMachine as ThisMachine
    from ollmlx.supervisor.machine import find_budget as find_budget
    from ollmlx.text.quantities import format_count as format_count
    from ollmlx.text.quantities import format_duration as format_duration
    from ollmlx.text.quantities import format_size as format_size
    from ollmlx.text.quantities import parse_duration as parse_duration
    from ollmlx.text.quantities import parse_size as parse_size

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "ollmlx.errors": "OllmlxError",
        "ollmlx.errors.findings": "Finding SafeCommand Severity",
        "ollmlx.formats.gguf": "GGUF_BLOCKS GgufHeader GgufTensor read_gguf_header",
        "ollmlx.formats.ollama_gguf": "DIALECT_KEY",
        "ollmlx.formats.safetensors": "SafetensorsTensor mlx_tensor_name quantization_of read_safetensors_header "
        "unpacked_elements",
        "ollmlx.helper": "LimitExceeded run_limited",
        "ollmlx.model.modelfile": "UNUSED_COMMANDS",
        "ollmlx.model.names": "HUB_HOSTS ModelName load_catalogue parse_digest",
        "ollmlx.model.events": "closing",
        "ollmlx.model.templates": "MAX_TEMPLATE check_template is_go_template passes_tools render_template",
        "ollmlx.plugin.contracts": "Backend Check Engine Guarded Importer LaunchOptions PluginContext Refusal "
        "RunnerCommand Source Store unguarded",
        "ollmlx.plugin.hookspecs": "hookimpl",
        "ollmlx.protocol": "RunnerConfig",
        "ollmlx.runner.kit.serial": "SerialEngine",
        "ollmlx.service": "Service",
        "ollmlx.settings": "Settings",
        "ollmlx.storekit.download": "Download redirected",
        "ollmlx.storekit.files": "storage_error",
        "ollmlx.storekit.staging": "locked",
        "ollmlx.supervisor.machine": "ThisMachine find_budget",
        "ollmlx.text.quantities": "format_count format_duration format_size parse_duration parse_size",
    },
    eager=("__version__",),
)
