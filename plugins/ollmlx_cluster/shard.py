"""A rank's shard of a model, the passes that all ranks make together, and the collectives that keep them in step.

Every rank makes the same collective calls in the same order; only rank 0's contribution is not zero. When a rank is
lost, the call fails on all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.tokenizer_utils import TokenizerWrapper

from ollmlx.errors import OllmlxError, StorageError
from ollmlx.protocol import RunnerConfig
from ollmlx_mlx.engine.device import device_name, limit_memory
from ollmlx_mlx.engine.kv_cache import Layers, make_layers
from ollmlx_mlx.engine.load import load_error, parameters, read_stored, read_tokenizer, to_float32

STOP: Final = 0
GO: Final = 1
TOKEN: Final = 2
"""Values that rank 0 broadcasts before a pass: there is none, the prompt's next chunk, or this plus a token."""
CHUNK: Final = {"cpu": 64, "metal": 512, "cuda": 1024}
"""Prompt tokens of one pass. Between two passes a request can be cancelled."""


class Collectives:
    """The calls by which ranks exchange small numbers and JSON: sums over the group. Used on one thread."""

    def __init__(self, group: mx.distributed.Group) -> None:
        self.group = group
        self.rank: int = group.rank()
        self.size: int = group.size()

    @property
    def leads(self) -> bool:
        """Return whether this is rank 0, which decides for all."""
        return self.rank == 0

    def broadcast(self, value: int = STOP) -> int:
        """Return rank 0's value, on every rank."""
        return int(self._sum(mx.array([value if self.leads else 0], dtype=mx.int32))[0])

    def broadcast_json(self, message: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return rank 0's message, on every rank."""
        raw = json.dumps(message).encode() if self.leads else b""
        length = self.broadcast(len(raw))
        data = mx.array(list(raw), dtype=mx.int32) if self.leads else mx.zeros(length, dtype=mx.int32)
        received: dict[str, Any] = json.loads(bytes(self._sum(data)))
        return received

    def gather(self, value: int) -> list[int]:
        """Return the values of all ranks, by rank, on every rank."""
        own = mx.array([value if rank == self.rank else 0 for rank in range(self.size)], dtype=mx.int32)
        return self._sum(own)

    def _sum(self, array: mx.array) -> list[int]:
        # On the CPU stream: a rank that waits for the next request must not occupy the GPU.
        summed = mx.distributed.all_sum(array, group=self.group, stream=mx.cpu)
        values: Any = summed.tolist()
        return [int(value) for value in values]


class ModelShard:
    """One rank's part of a model. `mode`: `tensor` (a part of every layer) or `pipeline` (some layers)."""

    def __init__(self, model: Module, tokenizer: TokenizerWrapper, collectives: Collectives) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = device_name()
        self._collectives = collectives

    @classmethod
    def load(cls, config: RunnerConfig, collectives: Collectives, mode: str) -> ModelShard:
        """Load this rank's part. Raises StorageError when the model is missing or cannot be split in this mode."""
        limit_memory(config, mx)
        folder = config.model.path
        try:
            model, settings = read_stored(folder, trust=config.allow_remote_code)
            tokenizer = read_tokenizer(folder, settings, trust=config.allow_remote_code)
            if device_name() == "cpu":
                # Before the split: unpacked weights divide anywhere, packed ones only between groups.
                to_float32(model, unpack=config.engine_options.get("weights", "float32") == "float32")
            _split(model, settings, collectives, mode)
            for array in parameters(model):
                mx.eval(array)
        except OllmlxError:
            raise
        except Exception as error:
            raise load_error(error, folder) from error
        return cls(model, tokenizer, collectives)

    def prefill(self, tokens: Sequence[int], cache: Layers) -> Iterator[tuple[int, mx.array]]:
        """On rank 0: compute the prompt pass by pass. Yields the tokens done and the pass's logits [1, vocabulary]."""
        step = CHUNK[self.device]
        for at in range(0, len(tokens), step):
            chunk = tokens[at : at + step]
            self._collectives.broadcast(GO)
            yield at + len(chunk), self.forward(chunk, cache)

    def follow(self, tokens: Sequence[int]) -> None:
        """On the other ranks: make the passes of one request that rank 0 announces."""
        cache = make_layers(self.model)
        step = CHUNK[self.device]
        at = 0
        while (value := self._collectives.broadcast()) != STOP:
            if value >= TOKEN:
                self.forward([value - TOKEN], cache)
            else:
                self.forward(tokens[at : at + step], cache)
                at += step

    def forward(self, tokens: Sequence[int], cache: Layers) -> mx.array:
        """Make one pass on this rank. Returns the logits after the last token [1, vocabulary]."""
        logits: mx.array = self.model(mx.array([list(tokens)]), cache=cache)[:, -1, :]
        mx.eval(logits)
        return logits


def _split(model: Module, settings: dict[str, Any], collectives: Collectives, mode: str) -> None:
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
    split(collectives.group)
