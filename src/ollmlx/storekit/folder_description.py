"""Describes a model's folder by its small files and the headers of its weights; nothing is loaded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ollmlx.errors import Unsupported
from ollmlx.formats.safetensors import SafetensorsTensor, quantization_of, read_safetensors_header, unpacked_elements
from ollmlx.model.installed import Capability, ModelDefaults, ModelDetails
from ollmlx.model.request import Options
from ollmlx.model.templates import MAX_TEMPLATE
from ollmlx.runner.kit.prompts import has_insert_markers
from ollmlx.storekit.embedding_files import POOLING_TYPES, read_recipe
from ollmlx.storekit.files import MAX_CONFIG, FoundFile, damaged, read_bounded, read_json, require_json
from ollmlx.storekit.model_index import ModelDescription
from ollmlx.storekit.speech_files import describe_speech
from ollmlx.text.quantities import format_count

MAX_TOKENIZER = 64 << 20
MAX_LICENSE = 256 << 10
WEIGHTS = re.compile(r"model[^/]*\.safetensors")

_MODEL_TYPE = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_TOOLS = re.compile(r"\btools\b")
_THINKING = re.compile(r"enable_thinking|<think>|<\|channel\|>analysis|<\|channel>thought|\{%[^%]*\bthinking\b")
_ENCODERS = re.compile(r"(Bert|Roberta|DeBerta|MPNet|Electra)[A-Za-z0-9]*$", re.IGNORECASE)
PADDED_POSITIONS = dict.fromkeys(("camembert", "mpnet", "roberta", "xlm-roberta"), 2)
"""Model types whose first positions are those of padding: texts are shorter by this number of tokens."""
_INFO: dict[str, tuple[str, ...]] = {
    "context_length": (
        "max_position_embeddings", "max_seq_len", "n_positions", "seq_length", "max_sequence_length", "n_ctx",
        "max_target_positions",
    ),
    "embedding_length": ("hidden_size", "n_embd", "d_model", "dim"),
    "block_count": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "attention.head_count": ("num_attention_heads", "n_head", "n_heads"),
    "attention.head_count_kv": ("num_key_value_heads", "n_kv_heads"),
    "attention.key_length": ("head_dim",),
    "attention.sliding_window": ("sliding_window",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
    "rope.freq_base": ("rope_theta",),
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "vocab_size": ("vocab_size",),
}  # fmt: skip
_VOICES = ("kokoro", "qwen3_tts")
"""Model types of mlx-audio's voices."""
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def describe_folder(folder: Path, files: Sequence[FoundFile], origin: str) -> ModelDescription:
    """Describe the model of a folder.

    `origin` is the name that it came from, such as `hub:org/name@main`. Raises StorageError (MDL003) for a missing or
    damaged file.
    """
    names = {file.path for file in files}
    speech = describe_speech(folder, names)
    if speech is not None:
        return replace(speech, defaults=ModelDefaults(license=_license(folder, files)))
    config = require_json(folder, "config.json", MAX_CONFIG)
    kind = config.get("model_type")
    if not isinstance(kind, str) or not _MODEL_TYPE.fullmatch(kind):
        raise damaged(f"{folder.name}/config.json names no model_type")
    tensors = _tensors(folder, names)
    template = _chat_template(folder, names)
    details, info = _details(kind, config, tensors)
    capabilities = _capabilities(folder, names, config, template, origin)
    options = _options(read_json(folder, "generation_config.json", MAX_CONFIG) or {})
    if capabilities == ("embedding",):
        options = _embedding(folder, kind, details, info)
    return ModelDescription(
        format="mlx",
        details=details,
        capabilities=capabilities,
        info=info,
        chat_template=template,
        defaults=ModelDefaults(options=options, license=_license(folder, files)),
    )


def _embedding(folder: Path, kind: str, details: ModelDetails, info: dict[str, Any]) -> Options:
    """Add to `info` how texts become vectors. Returns the model's options: the context that its authors intend."""
    try:
        recipe = read_recipe(folder)
    except Unsupported as error:
        info["ollmlx.pooling"] = error.message
        return Options()
    info["ollmlx.pooling"] = recipe.described
    if len(recipe.pooling) == 1 and recipe.pooling[0] in POOLING_TYPES:
        info[f"{kind}.pooling_type"] = POOLING_TYPES[recipe.pooling[0]]
    if recipe.max_tokens is None or recipe.max_tokens >= (details.context_length or recipe.max_tokens):
        return Options()
    return Options(num_ctx=recipe.max_tokens)


def _tensors(folder: Path, names: set[str]) -> dict[str, SafetensorsTensor]:
    shards = sorted(name for name in names if WEIGHTS.fullmatch(name))
    if not shards:
        raise damaged(f"{folder.name} has no model*.safetensors")
    index = read_json(folder, "model.safetensors.index.json", keys=("weight_map",)) or {}
    listed = index.get("weight_map")
    missing = sorted({str(shard) for shard in listed.values()} - names) if isinstance(listed, dict) else []
    if missing:
        raise damaged(f"{folder.name}: {missing[0][:120]!r} is missing")
    tensors: dict[str, SafetensorsTensor] = {}
    for shard in shards:
        tensors |= read_safetensors_header(folder / shard)
    return tensors


def _details(
    kind: str, config: Mapping[str, Any], tensors: Mapping[str, SafetensorsTensor]
) -> tuple[ModelDetails, dict[str, Any]]:
    text = config.get("text_config")
    shape: Mapping[str, Any] = {**config, **text} if isinstance(text, dict) else config
    parameters = sum(unpacked_elements(name, tensors, config) for name in tensors)
    info: dict[str, Any] = {"general.architecture": kind, "general.parameter_count": parameters}
    for key, spellings in _INFO.items():
        if (value := _number(shape, spellings)) is not None:
            info[f"{kind}.{key}"] = value
    if kind in PADDED_POSITIONS and f"{kind}.context_length" in info:
        info[f"{kind}.context_length"] -= PADDED_POSITIONS[kind]
    info["general.file_type"] = level = _quantization_level(tensors, config)
    context, embedding = info.get(f"{kind}.context_length"), info.get(f"{kind}.embedding_length")
    details = ModelDetails(
        format="safetensors",
        family=kind,
        families=(kind,),
        parameter_size=format_count(parameters),
        quantization_level=level,
        context_length=int(context) if context is not None else None,
        embedding_length=int(embedding) if embedding is not None else None,
    )
    return details, info


def _number(shape: Mapping[str, Any], spellings: Sequence[str]) -> int | float | None:
    for key in spellings:
        value = shape.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 53:
            return value
    return None


def _capabilities(
    folder: Path, names: set[str], config: Mapping[str, Any], template: str | None, origin: str
) -> tuple[Capability, ...]:
    architectures = config.get("architectures")
    architecture = str(architectures[0])[:200] if isinstance(architectures, list) and architectures else ""
    kind = str(config.get("model_type"))
    if kind in ("whisper", *_VOICES):
        return ("speech",) if kind in _VOICES else ("transcription",)
    if _scores_documents(kind, architecture, names, config, origin):
        return ("rerank",)
    encoder = _ENCODERS.search(architecture.removesuffix("Model").removesuffix("ForMaskedLM")) is not None
    # Converted embedding models often have lost their pooling configuration: then only the name shows what they are.
    if encoder or names & {"modules.json", "1_Pooling/config.json"} or "embedding" in origin.lower():
        return ("embedding",)
    found: list[Capability] = ["completion"]
    if template and _TOOLS.search(template):
        found.append("tools")
    if _can_insert(folder, names):
        found.append("insert")
    if isinstance(config.get("vision_config"), dict):
        found.append("vision")  # of the weights: whether a backend answers pictures, the daemon asks it
    if template and _THINKING.search(template):
        found.append("thinking")
    return tuple(found)


def _scores_documents(kind: str, architecture: str, names: set[str], config: Mapping[str, Any], origin: str) -> bool:
    """Return True for a classifier with one number, and for a language model that was trained to judge documents.

    Qwen3-Reranker looks like any Qwen3: newer folders have the step that sentence-transformers reads, others the name.
    """
    if architecture.endswith("ForSequenceClassification"):
        labels = config.get("id2label")
        return config.get("num_labels") == 1 or (isinstance(labels, dict) and len(labels) == 1)
    return kind == "qwen3" and ("1_LogitScore/config.json" in names or "rerank" in origin.lower())


def _can_insert(folder: Path, names: set[str]) -> bool:
    """Return True if the tokenizer has the markers for text between a prefix and a suffix."""
    return any(
        name in names
        and (folder / name).stat().st_size <= MAX_TOKENIZER
        and has_insert_markers((folder / name).read_bytes())
        for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json")
    )


def _chat_template(folder: Path, names: set[str]) -> str | None:
    if "chat_template.jinja" in names:
        shown = f"{folder.name}/chat_template.jinja"
        return (read_bounded(folder / "chat_template.jinja", MAX_TEMPLATE, shown) or b"").decode("utf-8", "replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = (read_json(folder, name, keys=("chat_template",)) or {}).get("chat_template")
        if isinstance(template, list):
            template = _named_template(template)
        if isinstance(template, str) and len(template) > MAX_TEMPLATE:
            raise damaged(f"{folder.name}/{name}: its chat template is longer than {MAX_TEMPLATE >> 10} KiB")
        if isinstance(template, str) and template:
            return template
    return None


def _named_template(templates: Sequence[Any]) -> str | None:
    named = {entry.get("name"): entry.get("template") for entry in templates if isinstance(entry, dict)}
    chosen = named.get("tool_use") or named.get("default")
    return chosen if isinstance(chosen, str) else None


def _options(generation: Mapping[str, Any]) -> Options:
    """Return the sampling options that the model's authors recommend; none for greedy decoding or invalid values."""
    if generation.get("do_sample") is False:
        return Options()
    stated = {key: generation[key] for key in _SAMPLING if generation.get(key) is not None}
    if "repetition_penalty" in stated:
        stated["repeat_penalty"] = stated.pop("repetition_penalty")
    try:
        return Options.model_validate(stated)
    except ValidationError:
        return Options()


def _license(folder: Path, files: Sequence[FoundFile]) -> tuple[str, ...]:
    for file in files:
        if file.path.upper().partition(".")[0] in {"LICENSE", "LICENCE", "COPYING"} and file.size <= MAX_LICENSE:
            return ((folder / file.path).read_text(encoding="utf-8", errors="replace"),)
    return ()


def _quantization_level(tensors: Mapping[str, SafetensorsTensor], config: Mapping[str, Any]) -> str:
    """Return `int4`, `mxfp4` and the like for quantised weights, else the type that most bytes have, such as `BF16`."""
    table = quantization_of(config)
    bits, mode = table.get("bits"), table.get("mode", table.get("quant_method"))
    if isinstance(mode, str) and mode != "affine" and len(mode) <= 16:
        return mode
    if isinstance(bits, int):
        return f"int{bits}"
    counted: Counter[str] = Counter()
    for tensor in tensors.values():
        counted[tensor.dtype] += tensor.nbytes
    return counted.most_common(1)[0][0] if counted else ""
