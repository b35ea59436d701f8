"""A model that is listed with the capability `insert` can insert: store and engine know the same markers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.servers.tiny import write_model

from ollmlx import ModelName
from ollmlx.runner.kit import INSERT_MARKERS, InsertMarkers
from ollmlx_hub.store import MlxStore
from ollmlx_mlx.engine.text.prompt import InsertTokens

EVERY_FORMAT = pytest.mark.parametrize("markers", INSERT_MARKERS, ids=lambda markers: markers.prefix)


class Tokenizer:
    """A tokenizer with the markers of one format; every other letter is its code point."""

    bos_token_id = 1

    def __init__(self, *tokens: str) -> None:
        self.ids = {token: 1_000_000 + number for number, token in enumerate(tokens)}

    def get_vocab(self) -> dict[str, int]:
        return self.ids

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [*([1] if add_special_tokens else []), *map(ord, text)]


def named(markers: InsertMarkers) -> list[str]:
    return [token for token in (markers.prefix, markers.suffix, markers.middle) if token]


@EVERY_FORMAT
@pytest.mark.parametrize("escaped", [False, True], ids=["as it is", "escaped"])
async def test_the_store_lists_insert_for_every_format(tmp_path: Path, markers: InsertMarkers, escaped: bool) -> None:
    vocabulary = {token: number for number, token in enumerate(named(markers))}
    tokenizer = json.dumps({"model": {"vocab": vocabulary}}, ensure_ascii=escaped).encode()
    assert "insert" in await capabilities(tmp_path, tokenizer)


async def test_a_lone_marker_is_no_format(tmp_path: Path) -> None:
    assert "insert" not in await capabilities(tmp_path, b'{"model": {"vocab": {"<|fim_prefix|>": 0}}}')
    assert InsertTokens.of(Tokenizer("<|fim_prefix|>")) is None


@EVERY_FORMAT
def test_the_engine_builds_a_prompt_for_every_format(markers: InsertMarkers) -> None:
    tokenizer = Tokenizer(*named(markers))
    found = InsertTokens.of(tokenizer)
    assert found is not None
    prefix, suffix, *middle = (tokenizer.ids[token] for token in named(markers))
    parts = [[prefix, ord("a")], [suffix, ord("z")]]
    first, second = reversed(parts) if markers.suffix_first else parts
    assert found.prompt(tokenizer, "a", "z") == [1, *first, *second, *middle]


async def capabilities(folder: Path, tokenizer: bytes) -> tuple[str, ...]:
    write_model(folder / "tiny", tokenizer__json=tokenizer)
    model = await MlxStore(folder).resolve(ModelName.parse("tiny"))
    assert model is not None
    return model.capabilities
