"""Gemma 3 as an encoder, as in EmbeddingGemma (Vera et al., 2025): mlx-lm's layers, with masks for both directions."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.gemma3_text import Gemma3Model, ModelArgs

from ollmlx_mlx.engine.encoder.families import Config, Weights


class GemmaEncoder(Module):
    """Returns the hidden states of texts. Texts of one batch are padded on the right."""

    def __init__(self, config: Config) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        args = ModelArgs.from_dict(with_ropes(config))
        self.model = Gemma3Model(args)
        self._near = args.sliding_window // 2
        self._scale = args.hidden_size**0.5

    def __call__(self, ids: mx.array, lengths: mx.array | None = None) -> mx.array:
        """Return [texts, tokens, features] of [texts, tokens]. `lengths` [texts]: None when none is padded."""
        at = mx.arange(ids.shape[1])
        whole = None if lengths is None else (at[None] < lengths[:, None])[:, None, None, :]
        near = (mx.abs(at[:, None] - at[None]) <= self._near)[None, None]
        near = near if whole is None else mx.logical_and(near, whole)
        x = self.model.embed_tokens(ids)
        x = x * mx.array(self._scale, x.dtype)
        for layer in self.model.layers:
            x = layer(x, near if layer.self_attn.is_sliding else whole)
        out: mx.array = self.model.norm(x)
        return out


def with_ropes(config: Config) -> dict[str, Any]:
    """Return a configuration with the names of mlx-lm. Those of transformers 5 keep rotations in `rope_parameters`."""
    ropes = config.get("rope_parameters")
    found = dict(config)
    if isinstance(ropes, dict):
        for kind, key in (("full_attention", "rope_theta"), ("sliding_attention", "rope_local_base_freq")):
            stated = ropes.get(kind)
            if isinstance(stated, dict) and stated.get("rope_theta"):
                found.setdefault(key, stated["rope_theta"])
    pattern = config.get("_sliding_window_pattern")
    if pattern:
        found.setdefault("sliding_window_pattern", pattern)
    return found


def gemma_weights(weights: Weights) -> Weights:
    """Return the weights under mlx-lm's names; those of heads are left out."""
    found = {name if name.startswith("model.") else f"model.{name}": array for name, array in weights.items()}
    return {name: array for name, array in found.items() if not name.startswith(("model.dense", "model.lm_head"))}
