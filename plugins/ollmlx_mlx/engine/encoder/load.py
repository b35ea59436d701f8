"""From the folder of an encoder to a network in memory. On the compute thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer  # type: ignore[attr-defined]

from ollmlx.errors import StorageError
from ollmlx.storekit import EmbeddingRecipe, read_json, read_recipe, require_json
from ollmlx_mlx.engine.encoder.families import FAMILIES, Weights
from ollmlx_mlx.engine.encoder.network import Encoder
from ollmlx_mlx.engine.encoder.ranking import ScoreHead
from ollmlx_mlx.engine.pooling import Pooler
from ollmlx_mlx.folder import WEIGHTS

Forward = Callable[..., mx.array]
"""Returns the hidden states [texts, tokens, features] of ids [texts, tokens], lengths [texts] or None, and of pairs'
types [texts, tokens]."""


@dataclass(frozen=True)
class LoadedEncoder:
    """A network that is ready to compute, with the recipe of its vectors."""

    network: Forward
    tokenizer: Tokenizer
    recipe: EmbeddingRecipe
    pooler: Pooler
    note: str
    head: ScoreHead | None = None


def load_encoder(folder: Path, *, on_cpu: bool, scores: bool = False, lazy: bool = False) -> LoadedEncoder:
    """Load weights and tokenizer, with the head of a reranker if it `scores` documents.

    `lazy`: no weight is read, for a trial. Raises StorageError for missing, damaged or other files, Unsupported.
    """
    config = require_json(folder, "config.json")
    recipe = read_recipe(folder)
    weights = unpacked(read_weights(folder), config)
    head = ScoreHead(config, weights) if scores else None
    network, kind = _network(folder, config, weights, on_cpu=on_cpu)
    if not lazy:
        mx.eval(network.parameters())
    note = f"{kind} encoder, {recipe.described} pooling" if head is None else f"{kind} cross-encoder"
    pooler = Pooler(recipe, folder if head is None else None)
    return LoadedEncoder(network, read_tokenizer(folder), recipe, pooler, note, head)


def _network(folder: Path, config: dict[str, Any], weights: Weights, *, on_cpu: bool) -> tuple[Any, str]:
    kind = str(config["model_type"])
    network, weights = build_network(config, weights)
    expected: Any = tree_flatten(network.parameters())
    for name, array in expected:
        found = weights.get(name)
        if found is None or found.shape != array.shape:
            what = "is missing" if found is None else f"has the shape {found.shape}, not {array.shape}"
            raise StorageError(f"cannot load {folder.name}: the weight {name} {what}", code="MDL003")
    network.load_weights([(name, as_float(weights[name], on_cpu=on_cpu)) for name, _ in expected])
    return network, kind


def build_network(config: dict[str, Any], weights: Weights) -> tuple[Any, Weights]:
    """Return the network of a configuration, and the weights under its names."""
    kind = str(config["model_type"])
    if kind not in FAMILIES:
        from ollmlx_mlx.engine.encoder.gemma import GemmaEncoder, gemma_weights  # mlx-lm is slow to import

        return GemmaEncoder(config), gemma_weights(weights)
    family = FAMILIES[kind]
    return Encoder(family.shape(config)), family.rename(weights)


def read_weights(folder: Path) -> Weights:
    """Return the weights of a folder, lazily. Raises StorageError for a damaged file."""
    weights: Weights = {}
    try:
        for file in sorted(folder.glob(WEIGHTS)):
            found: Any = mx.load(str(file))
            weights |= found
    except (RuntimeError, ValueError) as error:
        raise StorageError(f"cannot load {folder.name}: {str(error)[:200]}", code="MDL003") from error
    return weights


def unpacked(weights: Weights, config: dict[str, Any]) -> Weights:
    """Return the weights with quantised ones unpacked: an encoder reads each for many tokens at once."""
    table: dict[str, Any] = config.get("quantization") or config.get("quantization_config") or {}
    plain: Weights = {}
    for name, array in weights.items():
        owner, _, last = name.rpartition(".")
        if f"{owner}.scales" not in weights:
            plain[name] = array
        elif last == "weight":
            own = special if isinstance(special := table.get(owner), dict) else table
            plain[name] = mx.dequantize(
                array,
                weights[f"{owner}.scales"],
                weights.get(f"{owner}.biases"),
                group_size=own.get("group_size", 64),
                bits=own.get("bits", 4),
                mode=own.get("mode", "affine"),
            )
        elif last not in ("scales", "biases"):
            plain[name] = array
    return plain


def as_float(array: mx.array, *, on_cpu: bool) -> mx.array:
    """Return a weight in the form that suits the device: half precision is emulated on a CPU."""
    return array.astype(mx.float32) if on_cpu else array


def read_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer, which neither cuts nor pads. Raises StorageError."""
    file, vocabulary = folder / "tokenizer.json", folder / "vocab.txt"
    if not file.is_file() and not vocabulary.is_file():
        raise StorageError(f"{folder.name} has neither tokenizer.json nor vocab.txt", code="MDL003")
    try:
        if file.is_file():
            tokenizer = Tokenizer.from_file(str(file))
        else:  # an older BERT
            lower = (read_json(folder, "tokenizer_config.json") or {}).get("do_lower_case") is not False
            tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=lower)._tokenizer
    except Exception as error:
        raise StorageError(f"cannot read the tokenizer of {folder.name}: {str(error)[:200]}", code="MDL003") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
