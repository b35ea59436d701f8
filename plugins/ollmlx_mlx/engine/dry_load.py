"""`python -m ollmlx_mlx.engine.dry_load FOLDER...`: builds models without reading their weights.

mlx-lm itself builds each model and compares name and shape of every tensor; MLX reads a tensor only when it is computed
with. Prints a JSON line for each folder: `folder`, `problem` (null if it can be loaded), `code` and `command`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from mlx.utils import tree_flatten
from tokenizers import Tokenizer

from ollmlx.storekit import read_json
from ollmlx_mlx.engine.encoder.load import load_encoder
from ollmlx_mlx.engine.load import read_stored
from ollmlx_mlx.folder import WEIGHTS, is_encoder

MAX_LAYERS: Final = 1000
MAX_TOKENIZER: Final = 64 << 20
LEAST_SHARE: Final = 0.8
"""A tokenizer with fewer ids than this share of the embedding's rows belongs to another model; padding is less."""
SAMPLE: Final = 4096
SAMPLES: Final = 3
LARGE: Final = 1 << 16
"""Bytes of a tensor that is sampled: small ones may well be zero."""
_EMBEDDINGS: Final = ("embed_tokens.weight", "wte.weight", "tok_embeddings.weight", "word_embeddings.weight")


def read_text(folder: Path) -> Any:
    """Build the model of a folder as the engine does: an encoder by code of ours, any other as mlx-lm does."""
    config = read_json(folder, "config.json") or {}
    if is_encoder(config):
        scores = any("SequenceClassification" in str(one) for one in config.get("architectures") or ())
        return load_encoder(folder, on_cpu=True, scores=scores, lazy=True).network
    return read_stored(folder)[0]


def main(folders: list[str], read: Callable[[Path], Any] = read_text) -> None:
    """Examine each folder. `read`: builds the model of a folder without reading its weights."""
    for folder in folders:
        problem, code = examine(Path(folder), read)
        command = "pip install --upgrade mlx-lm" if code == "MDL004" else ""
        line = {"folder": folder, "problem": problem, "code": code, "command": command}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def examine(folder: Path, read: Callable[[Path], Any] = read_text) -> tuple[str | None, str]:
    """Return why a model cannot be loaded, and the code of the finding; None if it can."""
    config = read_json(folder, "config.json") or {}
    layers = config.get("num_hidden_layers")
    if isinstance(layers, int) and layers > MAX_LAYERS:
        return f"config.json claims {layers} layers", "MDL003"
    try:
        model = read(folder)
    except Exception as error:  # noqa: BLE001 - the files of strangers make mlx-lm raise anything
        text = " ".join(str(error).split())[:240]
        if "not supported" in text and isinstance(error, ValueError):
            return text, "MDL004"
        return f"the weights do not fit config.json: {text or type(error).__name__}", "MDL003"
    problem = next(iter(_tokenizer(folder, model)), None) or next(_zeros(folder), None)
    return problem, "MDL003"


def _tokenizer(folder: Path, model: Any) -> Iterator[str]:
    """Compare the ids of tokenizer.json with the rows of the embedding."""
    parameters: Any = tree_flatten(model.parameters())
    shapes = {name: value.shape for name, value in parameters}
    rows = next((shape[0] for name, shape in shapes.items() if name.endswith(_EMBEDDINGS)), None)
    file = folder / "tokenizer.json"
    if rows is None or not file.is_file() or file.stat().st_size > MAX_TOKENIZER:
        return
    try:
        content = json.loads(file.read_bytes())
        highest = max(_ids(content), default=0)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        yield f"tokenizer.json is damaged: {type(error).__name__}: {str(error)[:100]}"
        return
    if highest >= rows:
        yield f"tokenizer.json has the id {highest}, the embedding has {rows} rows: it is another model's tokenizer"
    elif highest + 1 < rows * LEAST_SHARE:
        yield f"tokenizer.json has {highest + 1} ids for {rows} rows of the embedding: it is another model's tokenizer"
    else:
        yield from _unreadable(file, content)


def _unreadable(file: Path, content: dict[str, Any]) -> Iterator[str]:
    """Read a tokenizer as the engine will. The library raises plain exceptions."""
    try:
        Tokenizer.from_file(str(file))
    except Exception as error:  # noqa: BLE001
        yield f"tokenizer.json cannot be read: {' '.join(str(error).split())[:200]}"
    else:
        if not isinstance(content.get("added_tokens"), list):  # transformers expects it
            yield "tokenizer.json has no added_tokens: it is no complete tokenizer"


def _ids(content: Any) -> Iterator[int]:
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):
        yield len(vocabulary) - 1
    else:
        yield from vocabulary.values()
    yield from (token["id"] for token in content.get("added_tokens") or ())


def _zeros(folder: Path) -> Iterator[str]:
    """Look at samples of each large tensor. Two that are zero throughout are no accident."""
    zero: list[str] = []
    for file in sorted(folder.glob(WEIGHTS)):
        with file.open("rb", buffering=0) as opened:
            size = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(size))
            header.pop("__metadata__", None)
            for name, tensor in header.items():
                begin, end = tensor["data_offsets"]
                if end - begin >= LARGE and len(tensor["shape"]) > 1:
                    step = (end - begin - SAMPLE) // (SAMPLES - 1)
                    places = (8 + size + begin + step * number for number in range(SAMPLES))
                    if not any(any(os.pread(opened.fileno(), SAMPLE, place)) for place in places):
                        zero.append(name)
    if len(zero) > 1:
        yield f"{len(zero)} tensors hold only zeros, such as {zero[0]}: the files were not written to their end"


if __name__ == "__main__":
    main(sys.argv[1:])
