"""Describes a model by its small blobs and the header of its weights: details, capabilities, defaults, metadata."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from ollmlx import GgufHeader, read_gguf_header
from ollmlx.errors import Unsupported
from ollmlx.storekit import ModelDescription, damaged
from ollmlx.types import Capability, Message, ModelDefaults, ModelDetails, Options
from ollmlx_ollama_store.layout import MAX_CONFIG, Kind, OllamaConfig, OllamaLayer, OllamaLayout, OllamaManifest

MAX_TEXT = 8 << 20
LONGEST_ARRAY = 1024
SAFETENSORS = "ollama-safetensors"
"""The format of models for Ollama's own MLX engine: they have a layer for each tensor."""
FILE_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
"""llama.cpp's names for `general.file_type` of GGUF files, by their number."""

_GO_WORDS: Final[dict[Capability, re.Pattern[str]]] = {
    "tools": re.compile(r"\{\{[^}]*\.Tools\b"),
    "insert": re.compile(r"\{\{[^}]*\.Suffix\b"),
    "thinking": re.compile(r"\{\{[^}]*\.(Thinking|Think|IsThinkSet)\b"),
}
_JINJA_WORDS: Final[dict[Capability, re.Pattern[str]]] = {
    "tools": re.compile(r"\btools\b"),
    "thinking": re.compile(r"enable_thinking|<think>|\bthinking\b"),
}
_MESSAGES = TypeAdapter(tuple[Message, ...])


def describe(layout: OllamaLayout, manifest: OllamaManifest) -> ModelDescription:
    """Describe a model. Raises StorageError if a blob is damaged, Unsupported for a cloud model."""
    config = OllamaConfig.parse(layout.read(layout.blob(manifest.config.digest), MAX_CONFIG), "its configuration")
    if config.remote_host or config.remote_model:
        raise Unsupported(
            f"it runs at {config.remote_host or 'ollama.com'}, not on this machine", code="MDL005",
            hint="pull a model whose weights are here",
        )  # fmt: skip
    template = _text(layout, manifest, "template")
    defaults = _defaults(layout, manifest, template)
    if config.model_format == "safetensors":
        known: tuple[Capability, ...] = ("completion", "tools", "insert", "vision", "embedding", "thinking")
        return ModelDescription(
            format=SAFETENSORS,
            details=_details(config, None, manifest),
            capabilities=tuple(name for name in known if name in (config.capabilities or ())) or ("completion",),
            defaults=defaults,
            chat_template=template,
        )
    header = _header(layout, manifest.of("model"))
    projectors = [_header(layout, (layer,)) for layer in manifest.of("projector")]
    shown = template or header.metadata.get("tokenizer.chat_template")
    return ModelDescription(
        format="gguf",
        details=_details(config, header, manifest),
        capabilities=_capabilities(header, shown, projectors),
        defaults=defaults,
        chat_template=shown if isinstance(shown, str) else None,
        info=_info(header),
        projector_info=_info(projectors[0]) if projectors else {},
    )


def _header(layout: OllamaLayout, layers: tuple[OllamaLayer, ...]) -> GgufHeader:
    if not layers:
        raise damaged("its manifest names no weights")
    path = layout.blob(layers[0].digest)
    layout.status(path)
    return read_gguf_header(path, longest=LONGEST_ARRAY)


def parameter_count(header: GgufHeader) -> int:
    """Return the number of elements of all tensors."""
    return sum(math.prod(tensor.shape) for tensor in header.tensors)


def file_type(header: GgufHeader) -> str:
    """Return the name of the quantisation, such as `Q4_K_M`; `unknown` if llama.cpp's number is not in the table."""
    number = header.metadata.get("general.file_type")
    return FILE_TYPES.get(number, "unknown") if isinstance(number, int) else "unknown"


def _details(config: OllamaConfig, header: GgufHeader | None, manifest: OllamaManifest) -> ModelDetails:
    family = config.model_family or (header.architecture if header else "")
    context, width = (header.own(key) if header else None for key in ("context_length", "embedding_length"))
    return ModelDetails(
        parent_model=next((layer.from_ for layer in manifest.of("model")), ""),
        format=config.model_format or "gguf",
        family=family,
        families=config.model_families or ((family,) if family else ()),
        parameter_size=config.model_type,
        quantization_level=config.file_type or (file_type(header) if header else ""),
        context_length=context if isinstance(context, int) and context > 0 else None,
        embedding_length=width if isinstance(width, int) and width > 0 else None,
    )


def _capabilities(header: GgufHeader, template: Any, projectors: list[GgufHeader]) -> tuple[Capability, ...]:
    """Return a model's capabilities by Ollama's rules: from the weights and from words in the template."""
    if header.own("pooling_type") is not None:
        return ("embedding",)
    text = template if isinstance(template, str) else ""
    words = _JINJA_WORDS if "{%" in text else _GO_WORDS
    found: set[Capability] = {capability for capability, pattern in words.items() if pattern.search(text)}
    if projectors or header.own("vision.block_count") is not None:
        found.add("vision")
    order: tuple[Capability, ...] = ("tools", "insert", "vision", "thinking")
    return ("completion", *(capability for capability in order if capability in found))


def _defaults(layout: OllamaLayout, manifest: OllamaManifest, template: str | None) -> ModelDefaults:
    found: dict[str, Any] = {}
    if template and "{%" in template:
        found["template"] = template  # a Go template is only shown: backends use the weights' own template, in Jinja
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


def _info(header: GgufHeader) -> dict[str, Any]:
    """Return the flat metadata, without long arrays and the template."""
    found = {key: _plain(value) for key, value in header.metadata.items() if value is not None}
    found.pop("tokenizer.chat_template", None)
    return {**found, "general.parameter_count": parameter_count(header)}


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: text without surrogates, no NaN and no infinity."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [_plain(item) for item in value] if isinstance(value, list) else value
