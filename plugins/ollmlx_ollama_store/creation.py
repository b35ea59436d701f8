"""Creating models: over another model's layers, or from GGUF files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ollmlx import GgufHeader, format_count, read_gguf_header
from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.storekit import merged_defaults, only_file
from ollmlx.types import CreateRequest, InstalledModel, PullProgress
from ollmlx_ollama_store.description import LONGEST_ARRAY, file_type, parameter_count
from ollmlx_ollama_store.installer import STAGED_MANIFEST, OllamaInstaller
from ollmlx_ollama_store.manifest import (
    CONFIG_TYPE,
    MAX_CONFIG,
    Kind,
    OllamaConfig,
    OllamaLayer,
    write_config,
    write_manifest,
)

WEIGHTS: tuple[Kind, ...] = ("model", "projector", "adapter", "draft")


class OllamaCreation:
    """Stages the layers and the manifest of a model; `OllamaInstaller.install` moves them into place."""

    def __init__(self, installer: OllamaInstaller) -> None:
        self.installer = installer
        self.index = installer.index
        self.layout = installer.layout

    async def create(self, request: CreateRequest, stage: Path) -> AsyncIterator[PullProgress]:
        """Stage the model of a request. Raises InvalidRequest, Unsupported, StorageError."""
        if request.quantize:
            raise Unsupported(
                "GGUF files are not quantised here", hint="llama-quantize of llama.cpp does it; create from its result"
            )
        if request.files:
            files = _gguf_files(request.files)
        elif request.base is not None:
            files = () if request.base.store == self.index.store else _weights_of(request.base)
        else:
            raise InvalidRequest("neither 'from' or 'files' was specified")
        if files:
            yield PullProgress(status="parsing GGUF")
            layers, facts = await asyncio.to_thread(self._from_files, files, stage)
        else:
            assert request.base is not None
            layers, facts = await asyncio.to_thread(self._from_base, request.base)
        for layer in layers:
            yield PullProgress(status=f"using existing layer {layer.digest}")
        stated = await asyncio.to_thread(self._stated, request, layers, stage)
        for layer in stated:
            yield PullProgress(status=f"creating new layer {layer.digest}")
        await asyncio.to_thread(self._write_manifest, _combined(layers, stated), facts, stage)

    def manifest(self, stage: Path) -> bytes:
        """Return the staged manifest. If a source left a single GGUF file, make a manifest for it first."""
        path = stage / STAGED_MANIFEST
        if not path.is_file():
            layers, facts = self._from_files(((only_file(stage, "gguf"), "model"),), stage)
            self._write_manifest(layers, facts, stage)
        return path.read_bytes()

    def _from_files(self, files: Sequence[tuple[Path, Kind]], stage: Path) -> tuple[list[OllamaLayer], dict[str, Any]]:
        layers: list[OllamaLayer] = []
        facts: dict[str, Any] = {}
        for path, kind in files:
            header = read_gguf_header(path, longest=LONGEST_ARRAY)
            if kind == "model" and header.architecture == "clip":
                kind = "projector"
            if kind == "model":
                if facts:
                    raise InvalidRequest(
                        "more than one GGUF file with weights: split models are not supported", hint="merge them first"
                    )
                facts = _facts(header)
            layers.append(self.installer.add_file(stage, kind, path))
        if not facts:
            raise InvalidRequest("none of the GGUF files holds a language model's weights")
        return layers, facts

    def _from_base(self, base: InstalledModel) -> tuple[list[OllamaLayer], dict[str, Any]]:
        manifest, _ = self.index.manifest(self.index.origin(base).path)
        config = self.layout.read(self.layout.blob(manifest.config.digest), MAX_CONFIG)
        OllamaConfig.parse(config, "its configuration")
        facts = {key: value for key, value in json.loads(config).items() if key != "rootfs"}
        origin = {"from_": str(base.name)}
        layers = [layer.model_copy(update=origin) if layer.kind == "model" else layer for layer in manifest.layers]
        return layers, facts

    def _stated(self, request: CreateRequest, base: Sequence[OllamaLayer], stage: Path) -> list[OllamaLayer]:
        """Stage layers for what the request states, and for defaults that its base has without a layer."""
        texts = _texts(request, self._parameters(base))
        layers = [self.installer.add_layer(stage, kind, text.encode()) for kind, each in texts.items() for text in each]
        if request.defaults.adapter is not None:
            layers.append(self.installer.add_file(stage, "adapter", _adapter(request.defaults.adapter)))
        return layers

    def _parameters(self, base: Sequence[OllamaLayer]) -> dict[str, Any]:
        """Return the parameters of a base, also those that only llama.cpp knows."""
        layers = [layer for layer in base if layer.kind == "params"]
        found = json.loads(self.layout.read(self.layout.blob(layers[-1].digest), MAX_CONFIG)) if layers else {}
        return found if isinstance(found, dict) else {}

    def _write_manifest(self, layers: Sequence[OllamaLayer], facts: dict[str, Any], stage: Path) -> None:
        data = write_config(facts, layers)
        config = self.installer.add_layer(stage, "model", data).model_copy(update={"media_type": CONFIG_TYPE})
        (stage / STAGED_MANIFEST).write_bytes(write_manifest(config, layers))


def _combined(base: Sequence[OllamaLayer], stated: Sequence[OllamaLayer]) -> list[OllamaLayer]:
    """Return the stated layers and those of the base whose kind is not stated; weights first."""
    replaced = {layer.kind for layer in stated}
    kept = [layer for layer in base if layer.kind not in replaced]
    return sorted([*kept, *stated], key=lambda layer: layer.kind not in WEIGHTS)


def _texts(request: CreateRequest, parameters: Mapping[str, Any]) -> dict[Kind, tuple[str, ...]]:
    """Return the content of the text layers by their kind."""
    defaults = merged_defaults(request)
    options = {key: value for key, value in defaults.options.stated.items() if value is not None and key != "backend"}
    options = {**parameters, **options}
    turns = [{"role": turn.role, "content": turn.content} for turn in defaults.messages]
    found: dict[Kind, str | None] = {
        "template": defaults.template,
        "system": defaults.system,
        "params": _json(options) if options else None,
        "messages": _json(turns) if turns else None,
    }
    return {**{kind: (text,) for kind, text in found.items() if text}, "license": defaults.license}


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _gguf_files(files: Mapping[str, Path]) -> tuple[tuple[Path, Kind], ...]:
    others = [name for name in files if not name.lower().endswith(".gguf")]
    if others:
        raise Unsupported(f"{others[0][:120]!r}: models in Ollama's store are made from GGUF files")
    return tuple((path, "model") for path in files.values())


def _weights_of(base: InstalledModel) -> tuple[tuple[Path, Kind], ...]:
    if base.format != "gguf":
        raise Unsupported(f"{base.name.short} is not a GGUF model")
    return ((base.path, "model"),)


def _adapter(path: Path) -> Path:
    found = [path] if path.is_file() else sorted(path.glob("*.gguf"))
    if len(found) != 1 or not found[0].is_file():
        raise InvalidRequest(
            f"{path.name} is not an adapter for GGUF models: they take one GGUF file",
            code="MDL007",
            hint="convert_lora_to_gguf.py of llama.cpp makes one from a PEFT adapter",
        )
    return found[0]


def _facts(header: GgufHeader) -> dict[str, Any]:
    return {
        "model_format": "gguf",
        "model_family": header.architecture,
        "model_families": [header.architecture],
        "model_type": format_count(parameter_count(header)),
        "file_type": file_type(header),
    }
