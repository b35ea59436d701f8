"""A rank's share of a model, and the passes that all ranks make together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_model

from ollmlx.errors import OllmlxError, StorageError
from ollmlx.protocol import RunnerConfig
from ollmlx_cluster.collectives import GO, STOP, Link, as_token
from ollmlx_mlx.engine.limits import limit_memory
from ollmlx_mlx.engine.load import device_name, load_error, read_tokenizer, to_float32

CHUNK: Final = {"cpu": 64, "metal": 512, "cuda": 1024}
"""Prompt tokens of one pass: between two passes a request can be cancelled."""


class Share:
    """What one rank holds. `mode` is `tensor` (a part of every layer) or `pipeline` (some layers)."""

    def __init__(self, model: Module, tokenizer: TokenizerWrapper, link: Link) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = device_name()
        self._link = link

    @classmethod
    def load(cls, config: RunnerConfig, link: Link, mode: str) -> Share:
        """Load this rank's part. Raises StorageError when the model cannot be split so, or is not there."""
        limit_memory(config, mx)
        folder = config.model.path
        try:
            model, settings = load_model(folder, lazy=True, trust_remote_code=config.allow_remote_code)
            tokenizer = read_tokenizer(folder, settings, trust=config.allow_remote_code)
            if device_name() == "cpu":
                # Before the split: unpacked weights divide anywhere, packed ones only between groups.
                to_float32(model, unpack=config.engine_options.get("weights", "float32") == "float32")
            _split(model, settings, link, mode)
            flat: Any = tree_flatten(model.parameters())
            for _, array in flat:
                mx.eval(array)
        except OllmlxError:
            raise
        except Exception as error:
            raise load_error(error, folder) from error
        return cls(model, tokenizer, link)

    def prefill(self, tokens: Sequence[int], cache: list[Any]) -> Iterator[tuple[int, mx.array]]:
        """On rank 0: the prompt, pass by pass: tokens done, and the pass's logits (1, vocabulary)."""
        step = CHUNK[self.device]
        for at in range(0, len(tokens), step):
            chunk = tokens[at : at + step]
            self._link.word(GO)
            yield at + len(chunk), self.forward(chunk, cache)

    def follow(self, tokens: Sequence[int]) -> None:
        """On the other ranks: the passes of one request, as rank 0 says."""
        cache = self.new_cache()
        step = CHUNK[self.device]
        at = 0
        while (word := self._link.word()) != STOP:
            token = as_token(word)
            chunk = [token] if token is not None else tokens[at : at + step]
            at += step if token is None else 0
            self.forward(chunk, cache)

    def forward(self, tokens: Sequence[int], cache: list[Any]) -> mx.array:
        """One pass on this rank; the logits after the last token."""
        logits: mx.array = self.model(mx.array([list(tokens)]), cache=cache)[:, -1, :]
        mx.eval(logits)
        return logits

    def new_cache(self) -> list[Any]:
        """An empty cache for one sequence."""
        cache: list[Any] = make_prompt_cache(self.model)
        return cache


def _split(model: Module, settings: dict[str, Any], link: Link, mode: str) -> None:
    modes = {
        "tensor": getattr(model, "shard", None),
        "pipeline": getattr(getattr(model, "model", None), "pipeline", None),
    }
    split = modes[mode]
    if split is None:
        kind = settings.get("model_type", "this")
        other = next((name for name, way in modes.items() if way is not None), None)
        raise StorageError(
            f'mlx-lm cannot spread a model of type {kind} with mode = "{mode}"; '
            + (f'it can with mode = "{other}"' if other else "it can with no mode"),
            code="MDL004",
        )
    split(link.group)
