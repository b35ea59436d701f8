"""The engine of encoders: texts become vectors, batch after batch; requests take turns between two batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import mlx.core as mx

from ollmlx.errors import OllmlxError, OutOfMemory, RunnerFailed, StorageError, Unsupported
from ollmlx.protocol import Progress, RunnerConfig, TokenizeRequest, Tokens
from ollmlx.types import EmbedRequest, EmbedResult, Event, GenerateRequest, RerankRequest, RerankResult
from ollmlx_mlx.engine.device import device_name, is_out_of_memory, limit_memory
from ollmlx_mlx.engine.encoder.batches import embed_batches, rank_batches
from ollmlx_mlx.engine.encoder.load import LoadedEncoder, load_encoder
from ollmlx_mlx.engine.encoder.ranking import encode_pairs
from ollmlx_mlx.engine.pooling import EmbedTexts

T = TypeVar("T")
Result = TypeVar("Result", EmbedResult, RerankResult)


class EncoderEngine:
    """Implements `ollmlx.plugin.contracts.Engine` for models that write no text.

    One thread computes, because MLX's streams belong to threads; another encodes texts meanwhile.
    """

    def __init__(self) -> None:
        self._compute = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._words = ThreadPoolExecutor(max_workers=1, thread_name_prefix="texts")
        self._config: RunnerConfig | None = None
        self._loaded: LoadedEncoder | None = None
        self._texts: EmbedTexts
        self._streams: list[mx.Stream | None] = [None]
        self._device = "cpu"
        self._progress = self._active = self._tokens = 0

    async def load(self, config: RunnerConfig) -> None:
        """Load the model. Raises StorageError, Unsupported, OutOfMemory."""
        self._config = config
        self._loaded = await self._on(self._compute, lambda: self._load(config))
        self._texts = EmbedTexts(self._encode, self._loaded.recipe)
        self._progress += 1

    def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Raise Unsupported: an encoder writes no text."""
        raise Unsupported("this model makes embeddings, it does not generate text")

    async def embed(self, request: EmbedRequest) -> EmbedResult:
        """Return vectors. Raises ContextExceeded, InvalidRequest, OutOfMemory. Cancelling it ends after a batch."""
        loaded, context = self._ready(), self._context()
        if loaded.head is not None:
            raise Unsupported("this model scores documents (/v1/rerank), it makes no embeddings")
        texts = await self._on(self._words, lambda: self._texts.encode(request, context))
        return await self._batch_by_batch(embed_batches(loaded, texts, request, self._device, self._streams))

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """Return scores. Raises as `embed`."""
        loaded, context = self._ready(), self._context()
        if loaded.head is None:
            raise Unsupported("this model makes embeddings, it does not score documents")
        pairs, cut = await self._on(self._words, lambda: encode_pairs(loaded.tokenizer, request, context))
        return await self._batch_by_batch(rank_batches(loaded, pairs, cut, self._device, self._streams))

    async def _batch_by_batch(self, work: Generator[None, None, Result]) -> Result:
        """Return the result of the work. Others have their turn between two of its parts."""
        self._active += 1
        try:
            while True:
                result = await self._on(self._compute, lambda: _step(work))
                self._progress += 1
                if result is not None:
                    self._tokens += result.prompt_tokens
                    return result
        finally:
            self._active -= 1

    async def tokenize(self, request: TokenizeRequest) -> Tokens:
        if request.messages:
            raise Unsupported("this model makes embeddings, it has no chat template")
        (tokens,) = await self._on(self._words, lambda: self._encode([request.text or ""], True))
        return Tokens(tokens=tuple(tokens))

    async def detokenize(self, tokens: Tokens) -> str:
        tokenizer = self._ready().tokenizer
        return await self._on(self._words, lambda: str(tokenizer.decode(list(tokens.tokens))))

    def status(self) -> Progress:
        """Return counters. Never waits for a thread."""
        loaded, config = self._loaded, self._config
        return Progress(
            engine="mlx",
            state="loading" if loaded is None else "ready",
            progress=self._progress,
            load_fraction=0.0 if loaded is None else 1.0,
            active=self._active,
            context_length=config.context_length if config else 0,
            memory_active=mx.get_active_memory(),
            memory_cache=mx.get_cache_memory(),
            memory_peak=mx.get_peak_memory(),
            prompt_tokens_total=self._tokens,
            device=self._device if loaded is not None else "",
            notes=(loaded.note, *self._notes(config)) if loaded is not None and config is not None else (),
        )

    async def trim(self) -> None:
        """Free MLX's unused buffers."""
        await self._on(self._compute, mx.clear_cache)

    async def close(self) -> None:
        """End the threads."""
        await asyncio.to_thread(self._compute.shutdown, cancel_futures=True)
        self._words.shutdown(wait=False, cancel_futures=True)

    def _load(self, config: RunnerConfig) -> LoadedEncoder:
        limit_memory(config, mx)
        self._device = device_name()
        if self._device == "cpu" and int(config.engine_options.get("streams", 1)) > 1:
            self._streams = [None, mx.new_stream(mx.Device(mx.DeviceType.cpu))]
        try:
            scores = "rerank" in config.model.capabilities
            return load_encoder(config.model.path, on_cpu=self._device == "cpu", scores=scores)
        except OllmlxError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(f"not enough memory to load {config.model.path.name}", code="RUN005") from error
            what = f"{type(error).__name__}: {str(error)[:200]}"
            raise StorageError(f"cannot load {config.model.path.name}: {what}", code="MDL003") from error

    def _encode(self, texts: Any, special: bool) -> list[list[int]]:
        loaded = self._loaded
        assert loaded is not None
        return [found.ids for found in loaded.tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)]

    def _ready(self) -> LoadedEncoder:
        if self._loaded is None:
            raise RunnerFailed("the model is not loaded")
        return self._loaded

    def _context(self) -> int:
        assert self._config is not None
        return self._config.context_length

    @staticmethod
    def _notes(config: RunnerConfig) -> tuple[str, ...]:
        return tuple(str(note) for note in config.engine_options.get("notes", ()))

    async def _on(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)


def _step(work: Generator[None, None, Result]) -> Result | None:
    """Compute one part. Returns the result of the last one."""
    try:
        next(work)
    except StopIteration as stop:
        result: Result = stop.value
        return result
    return None
