"""Describes folders of speech models by their small files: Whisper as CTranslate2 has it, and voices of Piper."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from pathlib import Path

from ollmlx.model.installed import ModelDetails
from ollmlx.storekit.files import MAX_CONFIG, damaged, read_bounded, read_json, require_json, storage_errors
from ollmlx.storekit.model_index import ModelDescription

WEIGHTS = "model.bin"
"""The weights of CTranslate2. Pickles often have this name, too: the file's own beginning decides."""
WHISPER = "ctranslate2"
PIPER = "piper"
MAX_VOCABULARY = 4 << 20
CONTEXT = 448
"""Tokens that Whisper's decoder can hold."""
LANGUAGES = 51_865
"""Tokens of the vocabularies of more than English, at least."""


def speech_weights(files: Mapping[str, Path]) -> frozenset[str]:
    """Return the names of files, given with their paths, that are the weights of speech models."""
    voices = {name for name in files if name.endswith(".onnx") and f"{name}.json" in files}
    return frozenset(voices | {name for name in (WEIGHTS,) if name in files and is_whisper(files[name])})


def describe_speech(folder: Path, names: Collection[str]) -> ModelDescription | None:
    """Return the description of a speech model; None for another kind. Raises StorageError (MDL003) for damage."""
    if WEIGHTS in names and is_whisper(folder / WEIGHTS):
        return _whisper(folder)
    voices = [name for name in names if name.endswith(".onnx") and f"{name}.json" in names]
    return _voice(folder, voices[0]) if len(voices) == 1 else None


def is_whisper(weights: Path) -> bool:
    """Return whether a file begins as CTranslate2 begins Whisper's: a version, then the name of the network."""
    name = b"WhisperSpec\0"
    with storage_errors(f"cannot read {weights.name}"), weights.open("rb") as file:
        return file.read(6 + len(name))[4:] == struct.pack("<H", len(name)) + name


def _whisper(folder: Path) -> ModelDescription:
    require_json(folder, "config.json", MAX_CONFIG)
    languages = "many" if _vocabulary(folder) >= LANGUAGES else "en"
    return ModelDescription(
        format=WHISPER,
        details=_details(WHISPER, "whisper", CONTEXT),
        capabilities=("transcription",),
        info={"general.architecture": "whisper", "whisper.context_length": CONTEXT, "whisper.languages": languages},
    )


def _vocabulary(folder: Path) -> int:
    """Return the number of tokens: lines of a text, or texts of an array."""
    for name, between in (("vocabulary.txt", b"\n"), ("vocabulary.json", b'",')):
        data = read_bounded(folder / name, MAX_VOCABULARY, f"{folder.name}/{name}")
        if data is not None:
            return data.strip().count(between) + 1
    raise damaged(f"{folder.name} has no vocabulary.txt or vocabulary.json")


def _voice(folder: Path, name: str) -> ModelDescription:
    config = read_json(folder, f"{name}.json", MAX_CONFIG) or {}
    spoken, audio, speakers = (config.get(key) for key in ("espeak", "audio", "speaker_id_map"))
    return ModelDescription(
        format=PIPER,
        details=_details(PIPER, "piper", None),
        capabilities=("speech",),
        info={
            "general.architecture": "piper",
            "general.name": name.removesuffix(".onnx"),
            "piper.language": str(spoken.get("voice", "")) if isinstance(spoken, dict) else "",
            "piper.sample_rate": audio.get("sample_rate") if isinstance(audio, dict) else None,
            "piper.voices": sorted(speakers) if isinstance(speakers, dict) else [],
        },
    )


def _details(format: str, family: str, context: int | None) -> ModelDetails:
    return ModelDetails(format=format, family=family, families=(family,), context_length=context)
