"""What a model is made from: files a person brings, or a model that is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.types import CreateRequest, ModelDefaults
from ollmlx_hub.layout import link
from ollmlx_hub.weights import quantization_of

ADAPTER = "adapter"

_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]*")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npz", ".npy")
_ALLOWED = (".safetensors", ".json", ".txt", ".jinja", ".model", ".tiktoken", ".md")


def file_format(files: Mapping[str, Path]) -> str:
    """`gguf` or `mlx` (safetensors). Raises InvalidRequest for anything else, naming the file."""
    for name in files:
        if name.lower().endswith(_PICKLES):
            raise InvalidRequest(
                f"{name}: weights in Python's pickle format are never read",
                hint="convert them to safetensors",
            )
    if any(name.lower().endswith(".gguf") for name in files):
        if sum(name.lower().endswith(".gguf") for name in files) > 1:
            raise InvalidRequest("more than one GGUF file: split models are not supported", hint="merge them first")
        return "gguf"
    if not any(name.endswith(".safetensors") for name in files):
        raise InvalidRequest("no safetensors or GGUF file among the files")
    if "config.json" not in files:
        raise InvalidRequest("config.json is missing among the files")
    return "mlx"


def place_files(files: Mapping[str, Path], into: Path) -> None:
    """Link files under their names into a folder. Raises InvalidRequest for a name that is no plain relative path."""
    for name, source in files.items():
        if not name.lower().endswith((*_ALLOWED, ".gguf")) and not name.upper().startswith(("LICENSE", "LICENCE")):
            raise InvalidRequest(f"{name[:120]!r}: files of this kind do not belong to a model")
        link(source, into / safe_path(name))


def safe_path(name: str) -> PurePosixPath:
    """A relative path of plain parts. Raises InvalidRequest for `..`, absolute paths, backslashes, hidden files."""
    parts = name.split("/")
    if len(parts) > 3 or not all(len(part) <= 255 and _SAFE.fullmatch(part) and ".." not in part for part in parts):
        raise InvalidRequest(f"invalid file name {name[:120]!r}")
    return PurePosixPath(*parts)


def merged(request: CreateRequest) -> ModelDefaults:
    """What the request states, over what its base has."""
    stated, base = request.defaults, request.base.defaults if request.base else ModelDefaults()
    fields: dict[str, object] = {"options": stated.options.over(base.options)}
    for field in ("system", "template", "messages", "license", "adapter", "draft"):
        value = getattr(stated, field) or getattr(base, field)
        if value:
            fields[field] = value
    return ModelDefaults.model_validate(fields)


def place_adapter(defaults: ModelDefaults, folder: Path) -> ModelDefaults:
    """Bring an adapter's files into the model's folder; the defaults then name it relative to that."""
    if defaults.adapter is None:
        return defaults
    source = defaults.adapter
    if source.is_dir():
        names = ("adapter_config.json", "adapters.safetensors", "adapter_model.safetensors")
        found = [source / name for name in names if (source / name).is_file()]
    else:
        found = [source] if source.is_file() and source.suffix == ".safetensors" else []
    if not any(file.suffix == ".safetensors" for file in found):
        raise InvalidRequest("this is no LoRA adapter: adapters.safetensors is missing", code="MDL007")
    for file in found:
        link(file, folder / ADAPTER / file.name)
    return defaults.model_copy(update={"adapter": Path(ADAPTER)})


def quantize_options(request: CreateRequest, config: Mapping[str, object]) -> dict[str, object]:
    """Options for the importer that quantises. Raises Unsupported when the weights are quantised already."""
    if quantization_of(config):
        raise Unsupported("quantization is only supported for F16, BF16 and F32 models")
    return {"quantize": request.quantize}
