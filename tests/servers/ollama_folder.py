"""A models folder in Ollama's layout, with tiny GGUF files."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

IMAGE = "application/vnd.ollama.image."
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
GO_TEMPLATE = "{{ if .System }}{{ .System }}{{ end }}{{ if .Tools }}{{ .Tools }}{{ end }}{{ .Prompt }}"
JINJA_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"

_KINDS: dict[type, tuple[int, str]] = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}


def tiny_gguf(*, weights: int = 256, fill: int = 7, **metadata: Any) -> bytes:
    """Make a GGUF file with one tensor of `weights` bytes. Keys may omit the architecture: `context_length=512`."""
    architecture = str(metadata.pop("architecture", "llama"))
    pairs: dict[str, Any] = {
        "general.architecture": architecture,
        "general.file_type": metadata.pop("file_type", 15),
        f"{architecture}.context_length": metadata.pop("context_length", 512),
        f"{architecture}.embedding_length": metadata.pop("embedding_length", 64),
        "tokenizer.ggml.tokens": [f"token {index}" for index in range(2000)],
        "tokenizer.chat_template": metadata.pop("template", JINJA_TEMPLATE),
    }
    pairs |= {key if "." in key else f"{architecture}.{key}": value for key, value in metadata.items()}
    tensor = _text("blk.0.weight") + struct.pack("<IQIQ", 1, weights // 4, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(_pair(k, v) for k, v in pairs.items()) + tensor
    return head + b"\0" * (-len(head) % 32) + bytes([fill]) * weights


def _text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _pair(key: str, value: Any) -> bytes:
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", 8) + _text(value)
    if isinstance(value, list):
        return _text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    number, form = _KINDS[type(value)]
    return _text(key) + struct.pack("<I", number) + struct.pack(form, value)


def digest(data: bytes) -> str:
    """`sha256:` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


Layers = Mapping[str, "bytes | list[bytes] | dict[str, bytes]"]
"""The content of layers by their kind, such as `model` or `template`: one, several, or several with names."""


def image(layers: Layers, **config: Any) -> tuple[bytes, dict[str, bytes]]:
    """Return a manifest's bytes and its blobs."""
    blobs: dict[str, bytes] = {}

    def layer(media_type: str, data: bytes, **more: str) -> dict[str, Any]:
        blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}

    listed = [
        layer(IMAGE + kind, data, **({"name": name} if name else {}))
        for kind, each in layers.items()
        for name, data in (each.items() if isinstance(each, dict) else (("", one) for one in _listed(each)))
    ]
    about = {
        "model_format": "gguf",
        "model_family": "llama",
        "model_families": ["llama"],
        "model_type": "134.52M",
        "file_type": "Q4_K_M",
        **config,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [entry["digest"] for entry in listed]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": layer(CONFIG, json.dumps(about, separators=(",", ":")).encode()),
        "layers": listed,
    }
    return json.dumps(manifest, separators=(",", ":")).encode(), blobs


def _listed(content: bytes | list[bytes]) -> list[bytes]:
    return content if isinstance(content, list) else [content]


def usual_layers(weights: bytes | None = None, **more: bytes | list[bytes]) -> dict[str, bytes | list[bytes]]:
    """Return the layers that a model of the registry usually has."""
    return {
        "model": weights if weights is not None else tiny_gguf(),
        "template": GO_TEMPLATE.encode(),
        "system": b"You are terse.",
        "params": json.dumps({"stop": ["<|im_end|>"], "temperature": 0.5, "num_gpu": 1}).encode(),
        "license": b"Apache License, Version 2.0",
        **more,
    }


class OllamaFolder:
    """A models folder. `root` is the value of OLLAMA_MODELS."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self,
        name: str = "llama3.2",
        layers: Layers | None = None,
        *,
        tag: str = "latest",
        origin: str = "registry.ollama.ai/library",
        **config: Any,
    ) -> Path:
        """Write a model, and return the path of its manifest."""
        manifest, blobs = image(usual_layers() if layers is None else layers, **config)
        for each, data in blobs.items():
            path = self.blob(each)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        path = self.root / "manifests" / origin / name / tag
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(manifest)
        return path

    def blob(self, digest: str) -> Path:
        return self.root / "blobs" / digest.replace(":", "-")

    def blobs(self) -> set[str]:
        """The names of all blobs."""
        return {path.name for path in (self.root / "blobs").iterdir()}

    def contents(self) -> dict[str, tuple[str, int, int]]:
        """Return the sha256, time and permissions of every file and folder. A folder has an empty sha256."""
        return {
            path.relative_to(self.root).as_posix(): (
                digest(path.read_bytes()) if path.is_file() else "",
                path.stat().st_mtime_ns,
                path.stat().st_mode,
            )
            for path in sorted(self.root.rglob("*"))
        }
