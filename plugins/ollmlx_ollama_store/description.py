"""Describes a model by its small blobs and the header of its weights: details, capabilities, defaults, metadata."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from ollmlx import GgufHeader, ModelName, OllmlxError, is_go_template, passes_tools, read_gguf_header
from ollmlx.errors import Unsupported
from ollmlx.storekit import LONGEST_ARRAY, FoundFile, ModelDescription, damaged, describe_folder, describe_gguf
from ollmlx.types import Capability, Message, ModelDefaults, ModelDetails, Options
from ollmlx_ollama_store.layout import MAX_CONFIG, STATED, Kind, OllamaConfig, OllamaLayer, OllamaLayout, OllamaManifest
from ollmlx_ollama_store.tensor_folders import TensorFolders

MAX_TEXT = 1 << 20
SAFETENSORS = "ollama-safetensors"
"""The format of models for Ollama's own MLX engine: they have a layer for each tensor."""
LAYERS = "ollmlx.layers"
"""The key in `info` of a model in this layout: what is missing for MLX to read it, or nothing."""
_MESSAGES = TypeAdapter(tuple[Message, ...])


def describe(layout: OllamaLayout, manifest: OllamaManifest, folders: TensorFolders) -> ModelDescription:
    """Describe a model. Raises StorageError if a blob is damaged, Unsupported for a cloud model."""
    config = OllamaConfig.parse(layout.read(layout.blob(manifest.config.digest), MAX_CONFIG), "its configuration")
    if config.remote_host or config.remote_model:
        raise Unsupported(
            f"it runs at {config.remote_host or 'ollama.com'}, not on this machine", code="MDL005",
            hint="pull a model whose weights are here",
        )  # fmt: skip
    template = _text(layout, manifest, "template")
    if config.model_format == "safetensors":
        return _describe_tensors(layout, manifest, config, folders)
    header = _header(layout, manifest.of("model"))
    projectors = [_header(layout, (layer,)) for layer in manifest.of("projector")]
    own, found = (describe_gguf(header, template=each, projectors=projectors) for each in (None, template))
    used = template
    if own.chat_template and template and not _replaces(layout, manifest, template, own, found):
        used = None
        insert: tuple[Capability, ...] = ("insert",) if "insert" in found.capabilities else ()
        found = replace(found, capabilities=(*(name for name in own.capabilities if name != "insert"), *insert))
    return replace(found, details=_details(config, found.details, manifest), defaults=_defaults(layout, manifest, used))


def _describe_tensors(
    layout: OllamaLayout, manifest: OllamaManifest, config: OllamaConfig, folders: TensorFolders
) -> ModelDescription:
    """Describe a model of safetensors by the folder that MLX reads; one that MLX cannot read, by what is missing."""
    template = _text(layout, manifest, "template")
    try:
        folder = folders.make(manifest)
        own = describe_folder(folder, _files(folder), "ollama")
        if config.renderer and not template and not own.chat_template:
            raise Unsupported(f"it has no chat template; Ollama's program has its format ({config.renderer})")
    except Unsupported as refused:
        return ModelDescription(
            format=SAFETENSORS,
            details=_details(config, ModelDetails(), manifest),
            capabilities=tuple(name for name in get_args(Capability) if name in (config.capabilities or ()))
            or ("completion",),
            defaults=_defaults(layout, manifest, template),
            info={LAYERS: refused.message},
            chat_template=template,
        )
    if own.chat_template and template and not _states_template(layout, manifest, template):
        template = None
    defaults = _defaults(layout, manifest, template)
    options = Options(**{**own.defaults.options.stated, **defaults.options.stated})
    capabilities = own.capabilities
    if template and "completion" in capabilities:
        tools: tuple[Capability, ...] = ("tools",) if passes_tools(template) else ()
        capabilities = (*(name for name in capabilities if name != "tools"), *tools)
    return replace(
        own,
        details=_details(config, own.details, manifest),
        defaults=defaults.model_copy(update={"options": options}),
        capabilities=capabilities,
        info={**own.info, LAYERS: ""},
        chat_template=template or own.chat_template,
    )


def _files(folder: Path) -> list[FoundFile]:
    return [FoundFile(file.name, file.stat().st_size, 0) for file in folder.iterdir()]


def _replaces(
    layout: OllamaLayout, manifest: OllamaManifest, template: str, own: ModelDescription, found: ModelDescription
) -> bool:
    """Return whether the manifest's template is used instead of the weights' own, which is in Jinja.

    It is when a person stated it, or when it passes tools or thinking to the model and the weights' own does not.
    """
    more = {*found.capabilities} - {*own.capabilities} - {"insert"}
    return bool(more) or _states_template(layout, manifest, template)


def _states_template(layout: OllamaLayout, manifest: OllamaManifest, template: str) -> bool:
    """Return whether the template was stated by the person who made the model, and not pulled with it.

    It is in Jinja, or it was written by a Modelfile of this program, or the model was made from another that is gone or
    has another template.
    """
    if not is_go_template(template) or manifest.of("template")[-1].from_ == STATED:
        return True
    parent = next((layer.from_ for layer in manifest.of("model") if layer.from_), "")
    if not parent or parent.startswith("/"):
        return False
    with suppress(OllmlxError):
        entry = layout.find(ModelName.parse(parent))
        if entry is not None:
            before, _ = layout.manifest(entry.path)
            return [layer.digest for layer in before.of("template")] != [
                layer.digest for layer in manifest.of("template")
            ]
    return True


def _header(layout: OllamaLayout, layers: tuple[OllamaLayer, ...]) -> GgufHeader:
    if not layers:
        raise damaged("its manifest names no weights")
    path = layout.blob(layers[0].digest)
    layout.status(path)
    return read_gguf_header(path, longest=LONGEST_ARRAY)


def _details(config: OllamaConfig, read: ModelDetails, manifest: OllamaManifest) -> ModelDetails:
    """Return the details that the configuration states; where it states nothing, those read from the weights."""
    return read.model_copy(
        update={
            "parent_model": next((layer.from_ for layer in manifest.of("model")), ""),
            "format": config.model_format or read.format,
            "family": config.model_family or read.family,
            "families": config.model_families or ((config.model_family,) if config.model_family else read.families),
            "parameter_size": config.model_type or read.parameter_size,
            "quantization_level": config.file_type or read.quantization_level,
        }
    )


def _defaults(layout: OllamaLayout, manifest: OllamaManifest, template: str | None) -> ModelDefaults:
    """Return what the manifest states; `template` only where it is used instead of the weights' own."""
    found: dict[str, Any] = {}
    if template:
        found["template"] = template
    if system := _text(layout, manifest, "system"):
        found["system"] = system
    if (params := _text(layout, manifest, "params")) is not None and (options := _options(params)):
        found["options"] = options
    if messages := _text(layout, manifest, "messages"):
        found["messages"] = _turns(messages)
    if license := tuple(text for layer in manifest.of("license") if (text := _layer_text(layout, layer))):
        found["license"] = license
    for kind in ("adapter", "projector"):
        for layer in manifest.of(kind)[:1]:
            layout.status(layout.blob(layer.digest))
            found[kind] = layout.blob(layer.digest)
    return ModelDefaults(**found)


def _text(layout: OllamaLayout, manifest: OllamaManifest, kind: Kind) -> str | None:
    """Return the text of the last layer of a kind, or None if there is no such layer."""
    layers = manifest.of(kind)
    return _layer_text(layout, layers[-1]) if layers else None


def _layer_text(layout: OllamaLayout, layer: OllamaLayer) -> str:
    return layout.read(layout.blob(layer.digest), MAX_TEXT).decode("utf-8", "replace")


def _options(text: str) -> Options | None:
    """Parse the parameters layer. Options that only llama.cpp knows, and values of a wrong type, are left out."""
    stated = _json(text, "its parameters")
    if not isinstance(stated, dict):
        raise damaged("its parameters are not a JSON object")
    usable: dict[str, Any] = {}
    for name in {*stated} & {*Options.model_fields} - {"backend"}:
        with suppress(ValidationError):
            usable |= Options.model_validate({name: stated[name]}).stated if stated[name] is not None else {}
    return Options(**usable) if usable else None


def _turns(text: str) -> tuple[Message, ...]:
    turns = _json(text, "its messages")
    known = ("role", "content", "images", "thinking")
    try:
        return _MESSAGES.validate_python([{key: turn[key] for key in known if turn.get(key)} for turn in turns])
    except (ValidationError, TypeError, AttributeError) as error:
        raise damaged("its messages cannot be read") from error


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(f"{what} are not valid JSON") from error
