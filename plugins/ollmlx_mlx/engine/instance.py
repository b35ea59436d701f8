"""A loaded model with all parts that serve it: prompts, detokenizers, grammars, caches, scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import mlx.core as mx

from ollmlx.protocol import RunnerConfig
from ollmlx.storekit import read_recipe
from ollmlx_mlx.engine.batching.drafting import Drafter
from ollmlx_mlx.engine.batching.forward import Forward, TextForward
from ollmlx_mlx.engine.batching.grammar import Grammars
from ollmlx_mlx.engine.batching.prefill import ChunkClock
from ollmlx_mlx.engine.batching.prompt_lookup import PromptLookup
from ollmlx_mlx.engine.batching.scheduler import BatchScheduler
from ollmlx_mlx.engine.cache_folder import CacheFolder
from ollmlx_mlx.engine.device import limit_memory
from ollmlx_mlx.engine.judge import Judge
from ollmlx_mlx.engine.kv_cache import Layers, can_batch, make_layers, stays_trimmable, usable_type
from ollmlx_mlx.engine.load import LoadedModel, Read, load_model, read_text_model
from ollmlx_mlx.engine.pooling import EmbedTexts, Pooler
from ollmlx_mlx.engine.prefix_cache import PrefixCache
from ollmlx_mlx.engine.text.detokenizer import DetokenizerFactory
from ollmlx_mlx.engine.text.prompt import PromptEncoder, encode_texts
from ollmlx_mlx.folder import AUTO_WIDTH

FIRST_CHUNK: Final = {"cpu": 32, "metal": 512, "cuda": 1024}
"""Prompt tokens in the first chunk of a device, before its speed is known."""


@dataclass(slots=True)
class Instance:
    """The parts of a loaded engine, made once on the compute thread.

    `width`: sequences computed at once; `vocabulary`: logits per token.
    """

    config: RunnerConfig
    loaded: LoadedModel
    width: int
    vocabulary: int
    notes: tuple[str, ...]
    prompts: PromptEncoder
    detokenizers: DetokenizerFactory
    grammars: Grammars
    prefixes: PrefixCache
    clock: ChunkClock
    scheduler: BatchScheduler
    folder: CacheFolder | None
    texts: EmbedTexts
    pooler: Pooler
    judge: Judge | None

    def save_caches(self) -> None:
        """Write the prefix cache to disk, newest entries first, within its limit. On the compute thread."""
        if self.folder is not None:
            self.folder.save(self.prefixes.in_memory())


@dataclass(frozen=True)
class Parts:
    """The parts in which a kind of model differs from others: how it is read, and how its prompts are made and fed."""

    read: Read = read_text_model
    prompts: Callable[..., PromptEncoder] = PromptEncoder
    forward: Callable[[LoadedModel], Forward] = lambda loaded: TextForward(loaded.model)


TEXT: Final = Parts()


def build(config: RunnerConfig, advance: Callable[[float], None], parts: Parts = TEXT) -> Instance:
    """Load the model and make its parts. Raises StorageError, OutOfMemory."""
    limit_memory(config, mx)
    loaded = load_model(config, advance, parts.read)
    model, tokenizer = loaded.model, loaded.tokenizer
    wanted = str(config.engine_options.get("kv_cache_type", "auto"))
    kv_type, why_not = usable_type(model, wanted)
    sample = make_layers(model, kv_type)
    notes = list(loaded.notes)
    if why_not:
        notes.append(f"this model's cache cannot be {wanted}, it keeps its full precision: {why_not}")
    width = config.parallel or AUTO_WIDTH
    if width > 1 and not can_batch(sample):
        width = 1
        why = f"a {kv_type} cache" if can_batch(make_layers(model)) else "this architecture's cache"
        notes.append(f"{why} cannot be batched: requests are served one by one")
    vocabulary = _vocabulary(model, loaded.config, len(tokenizer))
    prefixes = PrefixCache(config.prompt_cache_bytes)
    folder = _folder(config, kv_type, sample, prefixes, notes)
    clock = ChunkClock(FIRST_CHUNK.get(loaded.device, 32))
    recipe = read_recipe(config.model.path)
    return Instance(
        config=config,
        loaded=loaded,
        width=width,
        vocabulary=vocabulary,
        notes=tuple(notes),
        prompts=parts.prompts(
            tokenizer, config.model.name.short, config.context_length, boundaries=not stays_trimmable(sample)
        ),
        detokenizers=loaded.detokenizers,
        grammars=Grammars(tokenizer._tokenizer, vocabulary, sorted(tokenizer.eos_token_ids)),
        prefixes=prefixes,
        clock=clock,
        scheduler=BatchScheduler(
            model,
            prefixes,
            lambda: make_layers(model, kv_type),
            width=width,
            pool=int(config.engine_options.get("pool_tokens") or width * config.context_length),
            clock=clock,
            drafter=Drafter(model, loaded.draft) if loaded.draft is not None else PromptLookup(model),
            launch_blocks=loaded.device == "cpu",
            forward=parts.forward(loaded),
        ),
        folder=folder,
        texts=EmbedTexts(partial(encode_texts, tokenizer), recipe),
        pooler=Pooler(recipe, config.model.path),
        judge=Judge(model, partial(encode_texts, tokenizer)) if "rerank" in config.model.capabilities else None,
    )


def _vocabulary(model: Any, config: dict[str, Any], fallback: int) -> int:
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    size = size or getattr(getattr(model, "args", None), "vocab_size", None)
    return int(size or fallback)


def _folder(
    config: RunnerConfig, kv_type: str, sample: Layers, prefixes: PrefixCache, notes: list[str]
) -> CacheFolder | None:
    if config.cache_dir is None or config.cache_dir_bytes <= 0 or config.prompt_cache_bytes <= 0:
        return None
    # A saved cache is only valid for the same weights, form of weights, adapter, precision and layout.
    identity = {
        "model": config.model.digest,
        "path": str(config.model.path),
        "adapter": str(config.model.defaults.adapter or ""),
        "weights": str(config.engine_options.get("weights", "")),
        "kv": kv_type,
        "mlx_lm": version("mlx-lm"),
    }
    key = bytes.fromhex(config.cache_key) if config.cache_key else None
    folder = CacheFolder(config.cache_dir, identity, config.cache_dir_bytes, sample, key)
    found, problems = folder.read_index()
    prefixes.add_saved(found)
    notes.extend(problems)
    if found:
        notes.append(f"{len(found)} saved prompt caches")
    return folder
