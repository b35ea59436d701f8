"""Folders that MLX can read, over the layers of models in Ollama's own layout of safetensors.

Such a model has a layer for each tensor or for a few, and one for each JSON file. A folder has links to these layers,
so no weights are copied, and the configuration with the table of quantisation that mlx-lm expects. Folders lie outside
the models folder, and can be removed at any time: reading the model makes them again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ollmlx import SafetensorsTensor, read_safetensors_header
from ollmlx.errors import Unsupported
from ollmlx.storekit import MAX_CONFIG, damaged
from ollmlx_ollama_store.layout import OllamaLayer, OllamaLayout, OllamaManifest, as_json

LAYOUT: Final = 1
"""Changes when folders are made otherwise, so that those of older versions are not used."""
_SCALES: Final = ("U8", "F16", "BF16", "F32")
_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,99}\.json")
_NEEDED: Final = ("config.json", "tokenizer.json")
_CODE: Final = ("auto_map", "model_file")
"""Keys that name Python files, which such a model never has."""
_TABLES: Final[Mapping[tuple[bool, int], dict[str, Any]]] = {
    (True, 2): {"group_size": 16, "bits": 4, "mode": "nvfp4"},
    (True, 4): {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    (True, 8): {"group_size": 32, "bits": 8, "mode": "mxfp8"},
    (False, 4): {"group_size": 32, "bits": 4, "mode": "affine"},
    (False, 8): {"group_size": 64, "bits": 4, "mode": "affine"},
    (False, 16): {"group_size": 64, "bits": 8, "mode": "affine"},
}
"""The ways to pack weights: by whether a scale is a byte, and by the words of weights for each scale."""


class TensorFolders:
    """Makes the folders of models in `layout` below `root`."""

    def __init__(self, layout: OllamaLayout, root: Path) -> None:
        self.layout = layout
        self.root = root

    def path(self, manifest: OllamaManifest) -> Path:
        """Return where the folder of a model is, whether it exists or not."""
        used = [(layer.kind, layer.name, layer.digest) for layer in manifest.layers if _is_used(layer)]
        named = json.dumps([LAYOUT, str(self.layout.blobs), used])
        return self.root / hashlib.sha256(named.encode()).hexdigest()[:32]

    def make(self, manifest: OllamaManifest) -> Path:
        """Return the folder of a model, made if needed. Raises StorageError; Unsupported, which names what is missing.

        Two threads may make the same folder: the first one that is complete is kept.
        """
        target = self.path(manifest)
        if target.is_dir():
            return target
        self.root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".", dir=self.root))
        try:
            if (missing := missing_part(manifest)) is not None:
                raise Unsupported(f"it has no {missing}", code="MDL005")
            self._fill(folder, [layer for layer in manifest.layers if _is_used(layer)])
            with suppress(OSError):  # another thread was first
                folder.rename(target)
            return target
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove_unused(self) -> None:
        """Remove the folders whose layers are gone."""
        for folder in self.root.glob("[!.]*"):
            if not all(link.exists() for link in list(folder.iterdir())):
                shutil.rmtree(folder, ignore_errors=True)

    def _fill(self, folder: Path, layers: Sequence[OllamaLayer]) -> None:
        tensors = [layer for layer in layers if layer.kind == "tensor"]
        files = {layer.name: layer for layer in layers if layer.kind == "json"}
        for number, layer in enumerate(tensors, 1):
            self._link(folder / f"model-{number:05}-of-{len(tensors):05}.safetensors", layer)
        for name, layer in files.items():
            self._link(folder / name, layer)
        for name in ("config.json", "tokenizer_config.json"):
            if name in files:
                self._rewrite(folder, name, files[name])

    def _link(self, link: Path, layer: OllamaLayer) -> None:
        blob = self.layout.blob(layer.digest)
        self.layout.status(blob)
        link.symlink_to(blob.absolute())

    def _rewrite(self, folder: Path, name: str, layer: OllamaLayer) -> None:
        """Replace the link to a configuration by a file without the keys that would mislead mlx-lm."""
        try:
            stored = json.loads(self.layout.read(self.layout.blob(layer.digest), MAX_CONFIG << 4))
        except (ValueError, RecursionError) as error:
            raise damaged(f"its {name} is not valid JSON") from error
        if not isinstance(stored, dict):
            raise damaged(f"its {name} is not a JSON object")
        content = {key: value for key, value in stored.items() if key not in _CODE}
        if name == "config.json":
            for part in (content, content.get("text_config")):
                if isinstance(part, dict):
                    part.pop("quantization_config", None)  # of the weights that Ollama's were made from
            if (table := _quantization(folder)) is not None:
                content.setdefault("quantization", table)
        if content != stored:
            (folder / name).unlink()
            (folder / name).write_bytes(as_json(content))


def missing_part(manifest: OllamaManifest) -> str | None:
    """Return what a model of safetensors lacks to be read by MLX, or None. Models that make pictures lack the first."""
    used = [layer for layer in manifest.layers if _is_used(layer)]
    names = {layer.name for layer in used}
    if not any(layer.kind == "tensor" for layer in used):
        return "weights"
    return next((name for name in _NEEDED if name not in names), None)


def _is_used(layer: OllamaLayer) -> bool:
    """Return whether a layer is part of the model itself: not of a draft model, and not a file below a folder."""
    if layer.kind == "tensor":
        return not layer.name.startswith("draft.")
    return layer.kind == "json" and _FILE.fullmatch(layer.name) is not None


def _quantization(folder: Path) -> dict[str, Any] | None:
    """Return the table of how most weights are packed, from the headers of their files; None if none are.

    mlx-lm works out by itself which layers are packed otherwise. Raises Unsupported for weights that it cannot read.
    """
    counted: Counter[tuple[bool, int]] = Counter()
    for file in sorted(folder.glob("model*.safetensors")):
        tensors = read_safetensors_header(file)
        for name, tensor in tensors.items():
            layer = name.removesuffix(".weight")
            if name.endswith(".global_scale"):
                raise Unsupported(f"mlx-lm has no second scale as {layer.removesuffix('.global_scale')} has it")
            if name.endswith(".weight") and (scales := tensors.get(f"{layer}.scales")) is not None:
                counted[_packing(layer, tensor, scales)] += tensor.nbytes
    return dict(_TABLES[counted.most_common(1)[0][0]]) if counted else None


def _packing(layer: str, packed: SafetensorsTensor, scales: SafetensorsTensor) -> tuple[bool, int]:
    """Return the key in `_TABLES` of one layer's weights."""
    words, rest = divmod(packed.shape[-1], scales.shape[-1]) if packed.shape and scales.shape[-1:] > (0,) else (0, 1)
    found = (scales.dtype == "U8", words)
    if packed.dtype != "U32" or scales.dtype not in _SCALES or rest or found not in _TABLES:
        raise Unsupported(f"MLX has no such quantisation as {layer[:120]} has", code="MDL005")
    return found
