"""The check of what is laid over a model: adapters, drafts and projectors that are damaged or of another model.

Only headers and configurations are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ollmlx.doctor.check import check, found, skipped
from ollmlx.doctor.context import CheckContext
from ollmlx.doctor.fixes import quoted
from ollmlx.errors import OllmlxError
from ollmlx.errors.findings import Finding, SafeCommand
from ollmlx.formats.gguf import GgufHeader, read_gguf_header
from ollmlx.formats.safetensors import read_safetensors_header
from ollmlx.storekit.files import free_name, read_json
from ollmlx.types import InstalledModel

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
LAYER = re.compile(r"layers\.([0-9]+)\.")
PADDING = 1024
"""Rows of an embedding that may be padding: models of one family differ by as many."""


@check("fitting", "storage", "MDL007")
async def fitting(context: CheckContext) -> list[Finding]:
    """Examine what installed models bring with them. What the settings add is examined with the settings."""
    findings: list[Finding] = []
    for model in await context.models():
        if context.left() <= 0:
            return [*findings, skipped("MDL007", "adapters and projectors were not all read for lack of time")]
        for kind, path, problem in _problems(model):
            findings.append(_misfit(model, kind, path, problem))
    return findings


def _problems(model: InstalledModel) -> Iterator[tuple[str, Path, str]]:
    stated = model.defaults
    if stated.adapter and (problem := adapter_problem(stated.adapter, model)):
        yield "adapter", stated.adapter, problem
    if stated.draft and (sizes := other_vocabularies(model, stated.draft)):
        yield "draft", stated.draft, f"it has a vocabulary of {sizes[1]} tokens, the model one of {sizes[0]}"
    if stated.projector and model.format == "gguf" and (problem := projector_problem(stated.projector, model)):
        yield "projector", stated.projector, problem


def _misfit(model: InstalledModel, kind: str, path: Path, problem: str) -> Finding:
    name = model.name.short
    again = f"echo FROM {quoted(model.path)} | ollmlx create {name} -f -"  # the weights alone
    aside = SafeCommand(f"mv {quoted(path)} {quoted(free_name(path.with_name(f'.{path.name}.moved')))}", asks=True)
    return found(
        "MDL007", f"the {kind} of {name} does not fit it: {problem}", evidence=(str(path),), subject=name,
        commands=(aside if path.parent == model.path.parent and not path.name.startswith("sha256") else again,),
    )  # fmt: skip


def adapter_problem(path: Path, base: InstalledModel | None) -> str | None:
    """Return why an adapter cannot be used: what is missing of it, or the first tensor that its base does not have."""
    try:
        if path.is_dir():
            missing = next((file for file in (CONFIG, WEIGHTS) if not (path / file).is_file()), None)
            if missing:
                return f"{path} has no {missing}"
            if read_json(path, CONFIG) is None:
                return f"{path / CONFIG} cannot be read"
            return _other_layers(path, base) if base is not None and base.format == "mlx" else None
        if not path.exists():
            return f"{path} does not exist"
        header = read_gguf_header(path, longest=0)
        if header.metadata.get("general.type") != "adapter":
            return f"{path.name} is no adapter"
        return _other_base(header, base.path) if base is not None and base.format == "gguf" else None
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except OllmlxError as error:
        return error.message


def _other_layers(path: Path, base: InstalledModel) -> str | None:
    """Compare an adapter for MLX with its base: the number of layers, and the rows that each tensor adds to."""
    with suppress(OSError, ValueError, OllmlxError):
        tensors = read_safetensors_header(path / WEIGHTS)
        layers = json.loads((base.path / "config.json").read_bytes()).get("num_hidden_layers")
        last = max((int(found[1]) for name in tensors if (found := LAYER.search(name))), default=0)
        if isinstance(layers, int) and last >= layers:
            return f"it changes the layer {last}, and {base.name.short} has {layers}"
        weights = {name: one for file in base.path.glob("model*.safetensors")
                   for name, one in read_safetensors_header(file).items()}  # fmt: skip
        for name, tensor in tensors.items():
            changed = weights.get(name.removesuffix(".lora_b") + ".weight") if name.endswith(".lora_b") else None
            if changed is not None and tensor.shape[-1] != changed.shape[0]:
                return f"{name} has {tensor.shape[-1]} columns, the weights that it changes {changed.shape[0]} rows"
    return None


def _other_base(adapter: GgufHeader, base: Path) -> str | None:
    """Compare a GGUF adapter with its base: the architecture, and the size of each tensor that it changes."""
    header = read_gguf_header(base, longest=0)
    kinds = [str(one.metadata.get("general.architecture")) for one in (adapter, header)]
    if kinds[0] != kinds[1]:
        return f"it is made for {kinds[0]}, and the model is {kinds[1]}"
    weights = {tensor.name: tensor.shape for tensor in header.tensors}
    for tensor in adapter.tensors:
        name, _, half = tensor.name.rpartition(".lora_")
        rows = weights.get(name, ())[:1]
        if name not in weights or (half == "b" and len(rows) == 1 and tensor.shape[0] != rows[0]):
            return f"{tensor.name} changes {name}, which is absent or has another size"
    return None


def projector_problem(path: Path, base: InstalledModel) -> str | None:
    """Return why a projector cannot be used: it is no GGUF file of one, or nothing in it has the model's width."""
    try:
        header = read_gguf_header(path, longest=0)
        model = read_gguf_header(base.path, longest=0).metadata
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    except OllmlxError as error:
        return error.message
    if header.metadata.get("general.architecture") != "clip":
        return f"{path.name} is no projector"
    width = model.get(f"{model.get('general.architecture')}.embedding_length")
    sizes = {size for tensor in header.tensors if tensor.name.startswith("mm.") for size in tensor.shape}
    known = {one for kind in ("vision", "audio") if (one := header.metadata.get(f"clip.{kind}.projection_dim"))}
    if isinstance(width, int) and sizes and width not in sizes | known:
        return (
            f"the model has a width of {width}, and the projector makes {', '.join(map(str, sorted(known or sizes)))}"
        )
    return None


def other_vocabularies(base: InstalledModel, draft: Path) -> tuple[int, int] | None:
    """Return the sizes of two vocabularies that are too different to be one."""
    one, other = _vocabulary(base.path), _vocabulary(draft)
    return (one, other) if one and other and abs(one - other) > min(PADDING, one // 8) else None


def _vocabulary(path: Path) -> int:
    with suppress(OSError, ValueError, OllmlxError):
        if path.is_file():
            tensors = read_gguf_header(path, longest=0).tensors
            return next((each.shape[0] for each in tensors if each.name == "token_embd.weight"), 0)
        config: Any = json.loads((path / "config.json").read_bytes())
        size = config.get("vocab_size")
        return size if isinstance(size, int) else 0
    return 0
