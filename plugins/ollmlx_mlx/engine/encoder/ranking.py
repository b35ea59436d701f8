"""The heads of cross-encoders, which turn the hidden states of a query and a document into a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.activations import gelu, relu
from tokenizers import Tokenizer

from ollmlx.errors import StorageError, Unsupported
from ollmlx.runner.kit import document_room
from ollmlx.types import RerankRequest
from ollmlx_mlx.engine.pooling import EncodedText

Weights = Mapping[str, mx.array]

LAYERS: Final = {
    "bert": ("bert.pooler.dense", "classifier"),
    "camembert": ("classifier.dense", "classifier.out_proj"),
    "modernbert": ("head.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj"),
}
"""By model type, in its authors' names: the layer after the hidden states, and the one that makes the number."""
_ACTIVATIONS: Final[dict[str, Any]] = {"gelu": gelu, "relu": relu, "tanh": mx.tanh}


class ScoreHead:
    """A dense layer, an activation, perhaps a norm, and a classifier with one number."""

    def __init__(self, config: Mapping[str, Any], weights: Weights) -> None:
        """Take the head's weights. Raises Unsupported for other heads than these, StorageError for a missing one."""
        kind = str(config["model_type"])
        if kind not in LAYERS:
            raise Unsupported(f"rerankers of the type {kind[:40]!r} are not supported", code="MDL004")
        self._dense, self._classifier = (self._layer(weights, name) for name in LAYERS[kind])
        modern = kind == "modernbert"
        self._mean = modern and config.get("classifier_pooling", "cls") == "mean"
        activation = config.get("classifier_activation", "gelu") if modern else "tanh"
        if activation not in _ACTIVATIONS:
            raise Unsupported(f"the activation {str(activation)[:40]!r} is not supported", code="MDL004")
        self._activation = _ACTIVATIONS[activation]
        self._norm = (weights.get("head.norm.weight"), weights.get("head.norm.bias")) if modern else None
        self._epsilon = float(config.get("norm_eps", 1e-5))
        if self._classifier[0].shape[0] != 1:
            raise Unsupported("this classifier has several labels: a reranker has one", code="MDL004")

    @staticmethod
    def _layer(weights: Weights, name: str) -> tuple[mx.array, mx.array | None]:
        if f"{name}.weight" not in weights:
            raise StorageError(f"the weight {name}.weight of the head is missing", code="MDL003")
        bias = weights.get(f"{name}.bias")
        return weights[f"{name}.weight"].astype(mx.float32), None if bias is None else bias.astype(mx.float32)

    def __call__(self, hidden: mx.array, lengths: Sequence[int]) -> mx.array:
        """Return the scores [pairs, 1], from 0 to 1, of hidden states [pairs, tokens, features]."""
        x = hidden.astype(mx.float32)
        if self._mean:
            ends = mx.array([*lengths])[:, None]
            counted = (mx.arange(x.shape[1])[None] < ends)[..., None]
            x = mx.where(counted, x, 0.0).sum(axis=1) / ends
        else:
            x = x[:, 0]
        x = self._activation(_linear(x, self._dense))
        if self._norm is not None:
            x = mx.fast.layer_norm(x, self._norm[0], self._norm[1], self._epsilon)
        return mx.sigmoid(_linear(x, self._classifier))


def _linear(x: mx.array, layer: tuple[mx.array, mx.array | None]) -> mx.array:
    weight, bias = layer
    return x @ weight.T if bias is None else x @ weight.T + bias


def encode_pairs(tokenizer: Tokenizer, request: RerankRequest, context: int) -> tuple[list[EncodedText], list[int]]:
    """Return the ids of the query with each document, and which documents were cut. Raises as `document_room`."""
    pairs: list[EncodedText] = []
    cut: list[int] = []
    found: Any = tokenizer.encode_batch([(request.query, document) for document in request.documents])
    for index, one in enumerate(found):
        sides = one.sequence_ids
        query, document = sides.count(0), sides.count(1)
        keep = document_room(query, len(sides) - query - document, document, request, context)
        end = len(sides) - sides[::-1].index(1) if document else len(sides)
        dropped = document - keep
        cut += [index] if dropped else []
        ids, types = ([*row[: end - dropped], *row[end:]] for row in (one.ids, one.type_ids))
        pairs.append(EncodedText(ids, second=types.index(1) if 1 in types else 0))
    return pairs, cut
