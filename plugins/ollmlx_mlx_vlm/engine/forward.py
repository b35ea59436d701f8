"""The call of a model that sees: vectors in the places of pictures, and positions after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ollmlx_mlx.engine.batching.generation import GenerationState
from ollmlx_mlx.engine.kv_cache import Layers
from ollmlx_mlx_vlm.engine.eyes import Picture
from ollmlx_mlx_vlm.engine.model import SeeingModel
from ollmlx_mlx_vlm.engine.prompts import PromptPictures

SMALL: Final = 64
"""Numbers of a picture that are still needed when its vectors are there: its size in patches."""


class PictureForward:
    """Implements the engine's `Forward`. Used on the compute thread."""

    def __init__(self, model: Any) -> None:
        self._model: SeeingModel = model

    def prepare(self, row: GenerationState, count: int) -> None:
        """Encode the pictures among the next `count` tokens of a sequence."""
        for picture, _, _ in _within(row, count):
            self._vectors(picture)

    def __call__(self, inputs: mx.array, cache: Layers, rows: Sequence[GenerationState]) -> mx.array:
        """Return the logits. Rows without pictures among these tokens are text."""
        if not any(row.prompt.pictures for row in rows):
            return self._model(inputs, cache=cache)
        width = inputs.shape[1]
        seen = [(index, *found) for index, row in enumerate(rows) for found in _within(row, width)]
        more = self._seen(inputs, seen, rows) if seen else {}
        if self._model.multiaxial:
            more["position_ids"] = mx.array(np.stack([self._positions(row, width) for row in rows], axis=1))
        return self._model(inputs, cache=cache, **more)

    def _seen(
        self,
        inputs: mx.array,
        seen: Sequence[tuple[int, Picture, NDArray[np.int64], int]],
        rows: Sequence[GenerationState],
    ) -> dict[str, Any]:
        """Return what the language model reads besides the tokens, of which some are places for vectors."""
        features = self._model.whole.get_input_embeddings(inputs)
        vectors = features.inputs_embeds
        looks = np.zeros(inputs.shape, dtype=bool)
        deep: list[tuple[mx.array, ...]] = []
        for row, picture, places, first in seen:
            own = slice(first, first + len(places))
            vectors[row, mx.array(places)] = self._vectors(picture)[own].astype(vectors.dtype)
            looks[row, places] = True
            deep.append(tuple(layer[own] for layer in picture.deep))
        more = {"inputs_embeds": vectors}
        if features.per_layer_inputs is not None:
            more["per_layer_inputs"] = features.per_layer_inputs
        if any(row.prompt.whole for row in rows):
            more["mm_token_type_ids"] = mx.array(looks.astype(np.int32))
        if any(deep):
            more["visual_pos_masks"] = mx.array(looks)
            more["deepstack_visual_embeds"] = [mx.concatenate(list(layers)) for layers in zip(*deep, strict=True)]
        return more

    def _vectors(self, picture: Picture) -> mx.array:
        """Return a picture's vectors; computed once, by mlx-vlm, from this picture's part of the prompt alone."""
        if picture.vectors is None:
            tokens, at = mx.array(picture.tokens)[None], mx.array(picture.at)
            numbers = {name: mx.array(value) for name, value in picture.numbers.items()}
            found = self._model.whole.get_input_embeddings(tokens, mask=mx.ones_like(tokens), **numbers)
            picture.vectors = found.inputs_embeds[0, at]
            deep = found.deepstack_visual_embeds
            picture.deep = tuple(deep) if deep is not None else ()
            mx.eval(picture.vectors, *picture.deep)
            picture.numbers = {name: value for name, value in picture.numbers.items() if value.size <= SMALL}
        return picture.vectors

    def _positions(self, row: GenerationState, width: int) -> NDArray[np.int64]:
        """Return the positions of the next tokens of a sequence, [3, tokens]."""
        numbers = np.arange(row.fed, row.fed + width)
        pictures: PromptPictures | None = row.prompt.pictures
        if pictures is None:
            return np.stack([numbers] * 3)
        if pictures.positions is None:
            pictures.positions = self._prompt_positions(pictures)
        known = pictures.positions
        later = numbers[numbers >= known.shape[1]] + known.max() + 1 - known.shape[1]
        return np.concatenate([known[:, row.fed : row.fed + width], np.stack([later] * 3)], axis=1)

    def _prompt_positions(self, pictures: PromptPictures) -> NDArray[np.int64]:
        grids = np.concatenate([picture.numbers["image_grid_thw"] for picture, _ in pictures.placed])
        language = self._model.whole.language_model
        positions, _ = language.get_rope_index(mx.array([pictures.tokens]), mx.array(grids))
        return np.array(positions)[:, 0].astype(np.int64)


def _within(row: GenerationState, count: int) -> list[tuple[Picture, NDArray[np.int64], int]]:
    """Return each picture with vectors among the next `count` tokens: their places in the chunk, and the first one's
    number among the picture's vectors.
    """
    pictures: PromptPictures | None = row.prompt.pictures
    found = []
    for picture, places in pictures.placed if pictures is not None else ():
        first, last = np.searchsorted(places, [row.fed, row.fed + count])
        if last > first:
            found.append((picture, places[first:last] - row.fed, int(first)))
    return found
