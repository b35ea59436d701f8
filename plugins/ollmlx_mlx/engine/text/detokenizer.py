"""Token ids to text, one by one: whole characters only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

_REPLACEMENT: Final = "\ufffd"
_CONTEXT: Final = 6
"""Tokens before a stream that decide how it begins."""


class FastDetokenizer:
    """For tokenizers of the `tokenizers` library (nearly all): its own incremental decoder, linear in the text.

    `after`: the token ids before the stream, when the text continues theirs. Some tokenizers write a word's leading
    space only after other text.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(ids=list(after[-_CONTEXT:]), skip_special_tokens=False)
        self._waiting: list[int] = []

    def add(self, token: int) -> str:
        """Return the text that became certain with this token; empty while a character is incomplete."""
        self._waiting.append(token)
        try:
            text = self._stream.step(self._tokenizer, token)
        except Exception:  # noqa: BLE001 - the Rust side raises bare Exception when a decoder rewrites its prefix
            text = self.flush()
            self._stream = DecodeStream(skip_special_tokens=False)
            return text
        if text is None:
            return ""
        self._waiting.clear()
        return str(text)

    def flush(self) -> str:
        """Return the whole characters that were held back, at the end of the stream."""
        text = str(self._tokenizer.decode(self._waiting, skip_special_tokens=False)).rstrip(_REPLACEMENT)
        self._waiting.clear()
        return text


class SlowDetokenizer:
    """For tokenizers in plain Python: mlx-lm's streaming detokenizer."""

    def __init__(self, streaming: Any) -> None:
        self._streaming = streaming

    def add(self, token: int) -> str:
        self._streaming.add_token(token)
        return str(self._streaming.last_segment)

    def flush(self) -> str:
        self._streaming.finalize()
        return str(self._streaming.last_segment).rstrip(_REPLACEMENT)


Detokenizer = FastDetokenizer | SlowDetokenizer


class DetokenizerFactory:
    """Makes detokenizers of one tokenizer, for one thread.

    It keeps a copy of the Rust tokenizer: another thread encodes with the original at the same time.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._wrapper = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._backend = Tokenizer.from_str(backend.to_str()) if isinstance(backend, Tokenizer) else None

    def __call__(self, after: Sequence[int] = ()) -> Detokenizer:
        """Return a detokenizer for a stream that follows the ids `after` (empty: the text stands alone)."""
        if self._backend is None:
            return SlowDetokenizer(self._wrapper.detokenizer)
        return FastDetokenizer(self._backend, after)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of these tokens alone, special tokens included; for logprobs."""
        if self._backend is None:
            return str(self._wrapper.decode(list(tokens)))
        return str(self._backend.decode(list(tokens), skip_special_tokens=False))
