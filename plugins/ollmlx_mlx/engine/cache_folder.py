"""Prefix caches on disk, which outlive the runner: written when it closes, read when a request begins like one of them.

With a key, a file is encrypted (AES-GCM): it holds `head`, the metadata, and `body`, which mlx-lm's loader understands.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache, QuantizedKVCache, load_prompt_cache, save_prompt_cache

from ollmlx import read_safetensors_header
from ollmlx.errors import StorageError
from ollmlx_mlx.engine.kv_cache import Layers, can_trim
from ollmlx_mlx.engine.prefix_cache import CachedPrefix, Tokens

_log = logging.getLogger(__name__)

VERSION: Final = "1"
LEAST_TOKENS: Final = 64
"""Shorter prefixes are computed faster than they are read from disk."""
NONCE_BYTES: Final = 12


class CacheFolder:
    """Caches saved on disk for one model in one form: one safetensors file each, in a private folder.

    `limit`: bytes for the caches of this model; `sample`: an empty cache of this model; `key`: of 32 bytes, for files
    that only it opens. Then files that anybody can read are removed.
    """

    def __init__(
        self, root: Path, identity: dict[str, str], limit: int, sample: Layers, key: bytes | None = None
    ) -> None:
        self._key = key or b""
        self._cipher = _Cipher(key) if key else None
        self._root = root
        self._kinds = [type(layer) for layer in sample]
        self._identity = json.dumps({"version": VERSION, **identity}, sort_keys=True)
        self._folder = root / hashlib.sha256(self._identity.encode()).hexdigest()[:24]
        self._limit = limit

    def read_index(self) -> tuple[list[CachedPrefix], list[str]]:
        """Return the saved caches, not read yet, and the problems of files that are skipped."""
        found: list[CachedPrefix] = []
        problems: list[str] = []
        for path in sorted(self._folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime):
            try:
                metadata = self._metadata(path)
                if metadata["identity"] != self._identity:
                    raise ValueError("it belongs to another model")
                tokens = np.array(json.loads(metadata["tokens"]), dtype=np.int32)
            except (StorageError, OSError, ValueError, KeyError, TypeError) as error:
                problems.append(f"saved prompt cache {path.name} ignored: {error}")
                _log.warning("%s", problems[-1])
                continue
            load = partial(self._read, path, len(tokens))
            owner = metadata.get("owner", "")
            found.append(CachedPrefix(owner, tokens, None, 0, metadata.get("trimmable") == "True", load))
        return found, problems

    def save(self, entries: Sequence[CachedPrefix]) -> None:
        """Write caches, the most recently used first, until the limit is reached. Failures are logged, not raised."""
        if not entries:
            return
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.mkdir(exist_ok=True, mode=0o700)
            room = self._limit
            for entry in entries:
                if len(entry.tokens) < LEAST_TOKENS or entry.nbytes > room or entry.layers is None:
                    continue
                room -= entry.nbytes
                self._write(entry.owner, entry.tokens, entry.layers)
            self._remove_oldest()
        except (OSError, RuntimeError, ValueError) as error:
            _log.warning("prompt caches were not saved: %s", error)

    def _write(self, owner: str, tokens: Tokens, layers: Layers) -> None:
        name = hashlib.sha256(self._key + owner.encode() + tokens.tobytes()).hexdigest()[:24]
        target, staged = self._folder / f"{name}.safetensors", self._folder / f".{name}.{os.getpid()}.safetensors"
        metadata = {
            "identity": self._identity,
            "owner": owner,
            "tokens": json.dumps(tokens.tolist()),
            "trimmable": str(can_trim(layers)),
        }
        try:
            if self._cipher is None:
                save_prompt_cache(str(staged), layers, metadata)
            else:
                body: Any = _File()
                save_prompt_cache(body, layers)
                sealed = {"head": json.dumps(metadata).encode(), "body": body.getbuffer()}
                mx.save_safetensors(str(staged), {name: self._cipher.seal(data) for name, data in sealed.items()})
            staged.chmod(0o600)
            staged.replace(target)
        finally:
            staged.unlink(missing_ok=True)

    def _read(self, path: Path, length: int) -> Layers | None:
        try:
            source: Any = str(path)
            if self._cipher is not None:
                source = _File(self._cipher.open(path, "body"))
            layers: Layers = load_prompt_cache(source)
            if [type(layer) for layer in layers] != self._kinds:
                raise ValueError("its layers are of other kinds than the model's")
            if any(layer.offset != length for layer in layers if isinstance(layer, (KVCache, QuantizedKVCache))):
                raise ValueError("it has another length than its metadata")
            os.utime(path)
        except Exception as error:  # noqa: BLE001 - the prefix is computed again instead
            _log.warning("saved prompt cache %s ignored: %s", path.name, error)
            return None
        return layers

    def _remove_oldest(self) -> None:
        files = sorted(self._root.glob("*/*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        held = 0
        for path in files:
            held += path.stat().st_size
            if held > self._limit:
                path.unlink(missing_ok=True)

    def _metadata(self, path: Path) -> dict[str, Any]:
        """Return the metadata without reading the arrays. Raises StorageError, ValueError for a damaged file."""
        sealed = "head" in read_safetensors_header(path)
        if self._cipher is not None:
            if not sealed:
                path.unlink()
                raise ValueError("it was not encrypted, and is removed")
            return dict(json.loads(self._cipher.open(path, "head")))
        if sealed:
            raise ValueError("it is encrypted")
        loaded: Any = mx.load(str(path), return_metadata=True)  # arrays are read when they are needed
        # mlx-lm flattens a list of three into string keys; ours is the first.
        return {key.removeprefix("0."): value for key, value in loaded[1].items() if key.startswith("0.")}


class _File(io.BytesIO):
    """A file in memory. MLX takes the format from the name."""

    name = "cache.safetensors"


class _Cipher:
    """AES-GCM with one key; what it seals begins with the nonce."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aes = AESGCM(key)

    def seal(self, data: Any) -> mx.array:
        nonce = os.urandom(NONCE_BYTES)
        return mx.array(np.frombuffer(nonce + self._aes.encrypt(nonce, data, None), dtype=np.uint8))

    def open(self, path: Path, name: str) -> bytes:
        """Return one sealed part of a file. Raises ValueError when another key sealed it, or it was changed."""
        from cryptography.exceptions import InvalidTag

        loaded: Any = mx.load(str(path))
        sealed = np.array(loaded[name]).tobytes()
        try:
            return self._aes.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except InvalidTag:
            raise ValueError("it was encrypted with another key, or is damaged") from None
