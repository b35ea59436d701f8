"""Prompts with pictures: each picture's part of the text, and what the prefix cache and the model learn of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ollmlx.errors import InvalidRequest, Unsupported
from ollmlx.runner.kit import chat_turn, context_exceeded
from ollmlx.types import GenerateRequest, Message
from ollmlx_mlx.engine.text.prompt import EncodedPrompt, PromptEncoder
from ollmlx_mlx_vlm.engine.eyes import Eyes, Picture


@dataclass(eq=False)
class PromptPictures:
    """The pictures of a prompt, in order, with the numbers of the tokens in whose places their vectors are.

    `positions`: of a multiaxial model, those of all tokens, [3, tokens]; computed when they are first needed.
    """

    tokens: tuple[int, ...]
    placed: tuple[tuple[Picture, NDArray[np.int64]], ...]
    positions: NDArray[np.int64] | None = field(default=None, repr=False)


class PicturePrompts(PromptEncoder):
    """Encodes prompts for one model that sees."""

    sees = True

    def __init__(
        self, tokenizer: Any, model_name: str, context_length: int, *, boundaries: bool, folder: Path, trust: bool
    ) -> None:
        self._eyes = Eyes(folder, trust=trust)
        if not tokenizer.has_chat_template and (template := self._eyes.tokenizer.chat_template):
            tokenizer.chat_template = template  # in a file that only processors read
            tokenizer.has_chat_template = True
        super().__init__(tokenizer, model_name, context_length, boundaries=boundaries, turn=self._turn)

    def build(self, request: GenerateRequest) -> EncodedPrompt:
        """Encode the prompt of a request. Raises InvalidRequest, Unsupported, ContextExceeded."""
        prompt = super().build(request)
        pictures = self._pictures(request.messages, request)
        if not pictures:
            return prompt
        places = np.flatnonzero(np.array(prompt.tokens) == self._eyes.place)
        while pictures and sum(picture.count for picture in pictures) > len(places):
            pictures = pictures[1:]  # the oldest turns are left out first
        if sum(picture.count for picture in pictures) != len(places):
            raise context_exceeded(len(prompt.tokens) + prompt.dropped, prompt.context - 1)
        placed, keys, at = [], list(prompt.tokens), 0
        for picture in pictures:
            own = places[at : at + picture.count]
            for place, key in zip(own.tolist(), picture.keys, strict=True):
                keys[place] = key
            placed.append((picture, own))
            at += picture.count
        whole = int(places[-1]) + 1 if self._eyes.together else 0
        return replace(prompt, keys=tuple(keys), pictures=PromptPictures(prompt.tokens, tuple(placed)), whole=whole)

    def _fitted(
        self, request: GenerateRequest, tokens: list[int], dropped: int, context: int, **more: Any
    ) -> EncodedPrompt:
        if len(tokens) > context - 1 and self._eyes.place in tokens:  # a picture is never cut
            raise context_exceeded(len(tokens) + dropped, context - 1)
        return super()._fitted(request, tokens, dropped, context, **more)

    def _encode(self, text: str, request: GenerateRequest, messages: Sequence[Message]) -> list[int]:
        pictures = self._pictures(messages, request)
        if not pictures:
            return super()._encode(text, request, messages)
        first, *rest = text.split(self._eyes.marker)
        if len(rest) < len(pictures):
            raise Unsupported(f"the chat template of {self._model_name} takes no pictures in such a turn")
        if len(rest) > len(pictures):
            raise InvalidRequest(f"the text has {self._eyes.marker}, which stands for a picture")
        whole = first + "".join(picture.text + piece for picture, piece in zip(pictures, rest, strict=True))
        return super()._encode(whole, request, messages)

    def _pictures(self, messages: Sequence[Message], request: GenerateRequest) -> list[Picture]:
        return [self._eyes.look(image, request.cache_owner) for message in messages for image in message.images]

    def _turn(self, message: Message, source: str) -> dict[str, Any]:
        """Return a message in parts where the template reads parts, else with the marker of each picture in its text.

        Templates that do not ask whether the content is a string read parts only.
        """
        turn = chat_turn(message)
        in_parts = "'image'" in source or '"image"' in source
        if in_parts and (message.images or "is string" not in source):
            text = [{"type": "text", "text": message.content}] if message.content or not message.images else []
            turn["content"] = [*({"type": "image"} for _ in message.images), *text]
        elif message.images:
            turn["content"] = self._eyes.shown * len(message.images) + message.content
        return turn
