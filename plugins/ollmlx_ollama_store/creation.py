"""Creating models: over another model's layers, or from GGUF files."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ollmlx import GgufHeader, Importer, ModelName, closing, read_gguf_header
from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.storekit import LONGEST_ARRAY, describe_gguf, merged_defaults, only_file, read_receipt, to_transfer_thread
from ollmlx.types import RECEIPT, CreateRequest, InstalledModel, PullProgress
from ollmlx_ollama_store.installer import STAGED_MANIFEST, OllamaInstaller
from ollmlx_ollama_store.layout import (
    CONFIG_TYPE,
    MAX_CONFIG,
    STATED,
    Kind,
    OllamaConfig,
    OllamaLayer,
    as_json,
    write_manifest,
)

COPY = "copy"
"""The folder of a stage for the files of a converted copy."""
WEIGHTS: tuple[Kind, ...] = ("model", "projector", "adapter", "draft")


class OllamaCreation:
    """Stages the layers and the manifest of a model; `OllamaInstaller.install` moves them into place."""

    def __init__(self, installer: OllamaInstaller) -> None:
        self.installer = installer
        self.index = installer.index
        self.layout = installer.layout

    async def create(
        self, request: CreateRequest, converter: Importer | None, stage: Path
    ) -> AsyncIterator[PullProgress]:
        """Stage the model of a request. Raises InvalidRequest, Unsupported, StorageError.

        `converter` quantises the weights, writes those in Ollama's dialect anew, and makes GGUF files of adapters.
        """
        files = _files_of(request, self.index.store)
        if request.convert and request.base is not None:
            self._check_copy(request.base, request.name)
            source = request.base.defaults.projector or request.base.path
            async with closing(_converted(converter, source, stage / COPY, dialect="ollama")) as steps:
                async for step in steps:
                    yield step
            layers, facts = await to_transfer_thread(self._from_copy, request.base, stage)
        elif files:
            yield PullProgress(status="parsing GGUF")
            layers, facts = await to_transfer_thread(self._from_files, files, stage)
        elif request.base is not None:
            layers, facts = await to_transfer_thread(self._from_base, request.base)
        else:
            raise InvalidRequest("neither 'from' or 'files' was specified")
        if request.quantize:
            made = stage / "quantized"
            async with closing(
                _converted(converter, self._weights(layers, stage), made, quantize=request.quantize)
            ) as steps:
                async for step in steps:
                    yield step
            layers, facts = await to_transfer_thread(self._with_weights, layers, facts, only_file(made, "gguf"), stage)
        for layer in layers:
            yield PullProgress(status=f"using existing layer {layer.digest}")
        adapter = request.defaults.adapter
        if adapter is not None and any(adapter.glob("*.safetensors")):
            made = stage / "adapter"
            yield PullProgress(status="converting adapter")
            base = str(self._weights(layers, stage))
            async with closing(_converted(converter, adapter, made, base=base)) as steps:
                async for step in steps:
                    yield step
            defaults = request.defaults.model_copy(update={"adapter": made})
            request = request.model_copy(update={"defaults": defaults})
        stated = await to_transfer_thread(self._stated, request, layers, stage)
        for layer in stated:
            yield PullProgress(status=f"creating new layer {layer.digest}")
        await to_transfer_thread(self._write_manifest, _combined(layers, stated), facts, stage)

    def manifest(self, stage: Path) -> bytes:
        """Return the staged manifest. If a source left a single GGUF file, make a manifest for it first."""
        path = stage / STAGED_MANIFEST
        if not path.is_file():
            layers, facts = self._from_files([only_file(stage, "gguf")], stage)
            receipt = read_receipt(stage / RECEIPT)
            if receipt is not None and receipt.license:
                layers.append(self.installer.add_layer(stage, "license", receipt.license.encode()))
            self._write_manifest(layers, facts, stage)
        return path.read_bytes()

    def _from_files(self, files: Sequence[Path], stage: Path) -> tuple[list[OllamaLayer], dict[str, Any]]:
        layers: list[OllamaLayer] = []
        facts: dict[str, Any] = {}
        for path in files:
            header = read_gguf_header(path, longest=LONGEST_ARRAY)
            if header.architecture == "clip":
                layers.append(self.installer.add_file(stage, "projector", path))
                continue
            if facts:
                raise InvalidRequest(
                    "more than one GGUF file with weights: split models are not supported", hint="merge them first"
                )
            facts = _facts(header)
            layers.append(self.installer.add_file(stage, "model", path))
        if not facts:
            raise InvalidRequest("none of the GGUF files holds a language model's weights")
        return layers, facts

    def _check_copy(self, base: InstalledModel, name: ModelName) -> None:
        if base.store != self.index.store:
            raise InvalidRequest(f"{base.name.short} is not in Ollama's store")
        if base.name == name:
            raise InvalidRequest("the copy needs a name of its own: the original stays as it is")

    def _from_copy(self, base: InstalledModel, stage: Path) -> tuple[list[OllamaLayer], dict[str, Any]]:
        """Return the layers of a converted model: its files, and its base's texts, and weights that stay the same."""
        files = sorted((stage / COPY).glob("*.gguf"))
        texts, stated = self._from_base(base)
        if base.defaults.projector is not None:
            layers = [self.installer.add_file(stage, "projector", file) for file in files]
            return [*(layer for layer in texts if layer.kind != "projector"), *layers], stated
        layers, facts = self._from_files(files, stage)
        kept = [layer for layer in texts if layer.kind not in ("model", "projector")]
        return [*layers, *kept], {**stated, **facts}

    def _from_base(self, base: InstalledModel) -> tuple[list[OllamaLayer], dict[str, Any]]:
        manifest, _ = self.layout.manifest(self.layout.origin(base).path)
        config = self.layout.read(self.layout.blob(manifest.config.digest), MAX_CONFIG)
        OllamaConfig.parse(config, "its configuration")
        facts = {key: value for key, value in json.loads(config).items() if key != "rootfs"}
        origin = {"from_": str(base.name)}
        layers = [layer.model_copy(update=origin) if layer.kind == "model" else layer for layer in manifest.layers]
        return layers, facts

    def _weights(self, layers: Sequence[OllamaLayer], stage: Path) -> Path:
        """Return the file of the weights: staged, or installed. Raises Unsupported for a model of tensor layers."""
        weights = next((layer for layer in layers if layer.kind == "model"), None)
        if weights is None:
            raise Unsupported("only GGUF models of Ollama's store are quantised or get an adapter", code="MDL005")
        installed = self.layout.blob(weights.digest)
        staged = stage / installed.name
        return staged if staged.is_file() else installed

    def _with_weights(
        self, layers: Sequence[OllamaLayer], facts: Mapping[str, Any], weights: Path, stage: Path
    ) -> tuple[list[OllamaLayer], dict[str, Any]]:
        """Return the layers and the facts of a model with other weights."""
        made = self.installer.add_file(stage, "model", weights)
        read = _facts(read_gguf_header(weights, longest=LONGEST_ARRAY))
        return [made, *(layer for layer in layers if layer.kind != "model")], {**facts, **read}

    def _stated(self, request: CreateRequest, base: Sequence[OllamaLayer], stage: Path) -> list[OllamaLayer]:
        """Stage layers for what the request states, and for defaults that its base has without a layer."""
        texts = _texts(request, self._parameters(base))
        layers = [
            self.installer.add_layer(stage, kind, text).model_copy(
                update={"from_": STATED if kind == "template" else ""}
            )
            for kind, each in texts.items()
            for text in each
        ]
        if request.defaults.adapter is not None:
            layers.append(self.installer.add_file(stage, "adapter", _adapter(request.defaults.adapter)))
        return layers

    def _parameters(self, base: Sequence[OllamaLayer]) -> dict[str, Any]:
        """Return the parameters of a base, also those that only llama.cpp knows."""
        layers = [layer for layer in base if layer.kind == "params"]
        found = json.loads(self.layout.read(self.layout.blob(layers[-1].digest), MAX_CONFIG)) if layers else {}
        return found if isinstance(found, dict) else {}

    def _write_manifest(self, layers: Sequence[OllamaLayer], facts: dict[str, Any], stage: Path) -> None:
        """Stage a manifest, and its configuration: `facts`, such as `model_format`, and what container tools need."""
        rootfs = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}
        document = as_json({**facts, "architecture": "amd64", "os": "linux", "rootfs": rootfs})
        config = self.installer.add_layer(stage, "model", document).model_copy(update={"media_type": CONFIG_TYPE})
        (stage / STAGED_MANIFEST).write_bytes(write_manifest(config, layers))


async def _converted(
    converter: Importer | None, source: Path, into: Path, **options: str
) -> AsyncIterator[PullProgress]:
    """Run the converter. Raises Unsupported where no backend has one."""
    if converter is None:
        raise Unsupported("no backend converts GGUF files", code="MDL005", hint="ollmlx plugin list")
    await to_transfer_thread(into.mkdir)
    async with closing(converter(source, into, format="gguf", options=options)) as steps:
        async for step in steps:
            yield step


def _combined(base: Sequence[OllamaLayer], stated: Sequence[OllamaLayer]) -> list[OllamaLayer]:
    """Return the stated layers and those of the base whose kind is not stated; weights first."""
    replaced = {layer.kind for layer in stated}
    kept = [layer for layer in base if layer.kind not in replaced]
    return sorted([*kept, *stated], key=lambda layer: layer.kind not in WEIGHTS)


def _texts(request: CreateRequest, parameters: Mapping[str, Any]) -> dict[Kind, list[bytes]]:
    """Return the content of the text layers by their kind."""
    defaults = merged_defaults(request)
    options = {key: value for key, value in defaults.options.stated.items() if value is not None and key != "backend"}
    options = {**parameters, **options}
    turns = [{"role": turn.role, "content": turn.content} for turn in defaults.messages]
    found: dict[Kind, bytes] = {
        "template": (defaults.template or "").encode(),
        "system": (defaults.system or "").encode(),
        "params": as_json(options) if options else b"",
        "messages": as_json(turns) if turns else b"",
    }
    licenses = [text.encode() for text in defaults.license]
    return {**{kind: [content] for kind, content in found.items() if content}, "license": licenses}


def _files_of(request: CreateRequest, store: str) -> list[Path]:
    """Return the GGUF files of a request, or those of its base if that is in another store."""
    others = [name for name in request.files if not name.lower().endswith(".gguf")]
    if others:
        raise Unsupported(f"{others[0][:120]!r}: models in Ollama's store are made from GGUF files")
    base = request.base
    if request.files or base is None or base.store == store:
        return list(request.files.values())
    if base.format != "gguf":
        raise Unsupported(f"{base.name.short} is not a GGUF model")
    return [base.path]


def _adapter(path: Path) -> Path:
    found = [path] if path.is_file() else sorted(path.glob("*.gguf"))
    if len(found) != 1 or not found[0].is_file():
        raise InvalidRequest(
            f"{path.name} is not an adapter for GGUF models: they take one GGUF file",
            code="MDL007",
            hint="or a folder with a LoRA adapter of PEFT or mlx-lm, which is converted",
        )
    return found[0]


def _facts(header: GgufHeader) -> dict[str, Any]:
    found = describe_gguf(header).details
    return {
        "model_format": "gguf",
        "model_family": header.architecture,
        "model_families": [header.architecture],
        "model_type": found.parameter_size,
        "file_type": found.quantization_level,
    }
