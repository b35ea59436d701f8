"""Pictures as mlx-vlm's processors prepare them: the text that stands for one in a prompt, and its numbers."""

from __future__ import annotations

import hashlib
import io
from base64 import b64decode
from collections import OrderedDict
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ollmlx.errors import InvalidRequest, StorageError
from ollmlx.storekit import require_json
from ollmlx_mlx.engine.device import device_name
from ollmlx_mlx_vlm.families import FAMILIES
from ollmlx_mlx_vlm.work_space import KEPT, KEPT_PLACES, PATCHES_ON_CPU, patch_size

_TEXT_FIELDS: Final = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
_PLACES: Final = ("image_token_index", "image_token_id", "media_placeholder_token_id")
"""Names in config.json of the token of a place."""


@dataclass(eq=False)
class Picture:
    """One picture. `text`: its part of the prompt; `tokens`: its ids; `at`: which of them are places for its vectors;
    `keys`: what the prefix cache has in these places, made of its pixels; `numbers`: for the encoder, of which only
    small ones are kept when `vectors`, which it makes, are there; `deep`: what is added after each of the first layers.
    """

    text: str
    tokens: NDArray[np.int64]
    at: NDArray[np.int64]
    keys: tuple[int, ...]
    numbers: dict[str, Any]
    vectors: mx.array | None = field(default=None, repr=False)
    deep: tuple[mx.array, ...] = field(default=(), repr=False)

    @property
    def count(self) -> int:
        """The number of vectors."""
        return len(self.at)


class Eyes:
    """Prepares pictures for one model. Used on the prompts' thread.

    `marker`: what the chat template writes in the place of a picture; `place`: the token of a place for a vector;
    `together`: the places of one picture see one another in the language model, so that one call must compute them.
    """

    def __init__(self, folder: Path, *, trust: bool) -> None:
        config = require_json(folder, "config.json")
        family = FAMILIES[str(config.get("model_type"))]
        module, processor = family.processor.split(":")
        try:
            # Not AutoProcessor: mlx-vlm's patch of it allows a model's own code and hides why a processor fails.
            kind: Any = getattr(import_module(f"mlx_vlm.models.{module}"), processor)
            self._processor = kind.from_pretrained(folder, trust_remote_code=trust)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            said = " ".join(str(error).replace(str(folder), folder.name).split())[:300]
            raise StorageError(f"cannot read how {folder.name} prepares pictures: {said}", code="MDL003") from error
        self.tokenizer = self._processor.tokenizer
        self.marker: str = family.marker or str(self._processor.image_token)
        self.shown = family.before + self.marker + family.after
        stated = [config[name] for name in _PLACES if isinstance(config.get(name), int)]
        self.place = int(stated[0] if stated else self._processor.image_token_id)
        self._patch = patch_size(config)
        self._most = PATCHES_ON_CPU if device_name() == "cpu" else 0
        self.together = sees_both_ways(config)
        self._kept: OrderedDict[tuple[str, str], Picture] = OrderedDict()

    def look(self, data: str, owner: str) -> Picture:
        """Return a picture, from base64. Owners do not share what was computed of one. Raises InvalidRequest."""
        known = (owner, hashlib.sha256(data.encode()).hexdigest())
        picture = self._kept.pop(known, None) or self._prepared(data)
        self._kept[known] = picture
        while len(self._kept) > KEPT or (
            len(self._kept) > 1 and sum(kept.count for kept in self._kept.values()) > KEPT_PLACES
        ):
            self._kept.popitem(last=False)
        return picture

    def _prepared(self, data: str) -> Picture:
        picture = Image.open(io.BytesIO(b64decode(data))).convert("RGB")
        digest = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).digest()
        found = self._process(picture)
        if self._most and _patches(np.shape(found["pixel_values"]), self._patch) > self._most:
            scale = 0.95 * (self._most * self._patch**2 / (picture.width * picture.height)) ** 0.5
            width, height = (max(1, int(edge * scale)) for edge in picture.size)
            found = self._process(picture.resize((width, height)))
        ids = np.array(found["input_ids"])[0].astype(np.int64)
        text = self.tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        at = np.flatnonzero(ids == self.place)
        numbers = {name: np.array(value) for name, value in found.items() if name not in _TEXT_FIELDS}
        return Picture(text.removeprefix(self.tokenizer.bos_token or ""), ids, at, _keys(digest, len(at)), numbers)

    def _process(self, picture: Image.Image) -> Any:
        try:
            return self._processor(text=[self.marker], images=[picture])
        except ValueError as error:
            raise InvalidRequest(f"invalid image input: the model cannot look at it: {error}") from error


def _patches(shape: tuple[int, ...], patch: int) -> int:
    """Return the patches that attend to one another, by the shape of a picture's numbers.

    That is [patches, numbers], [parts, patches, numbers], one patch's colours each, or [..., 3, height, width].
    """
    if len(shape) < 4 or shape.count(patch) > 1:
        return shape[1] if len(shape) == 3 else shape[0]
    return shape[-1] * shape[-2] // patch**2


def sees_both_ways(config: Any) -> bool:
    """Return whether the places of one picture see one another, as in the larger Gemma 4."""
    text = config.get("text_config")
    return isinstance(text, dict) and text.get("use_bidirectional_attention") == "vision"


def _keys(digest: bytes, count: int) -> tuple[int, ...]:
    """Return numbers below zero, which are no tokens, that follow from a picture's pixels."""
    drawn = np.frombuffer(hashlib.shake_256(digest).digest(4 * count), dtype="<u4")
    return tuple((-1 - (drawn & 0x7FFFFFFF).astype(np.int64)).tolist())
