"""Whisper as CTranslate2 has it is pulled from a hub; a pickle with the same name is not installed."""

from __future__ import annotations

import json
import struct

import pytest
from tests.servers.hub import HubServer
from tests.unit.plugins.hub.conftest import Pull, found

from ollmlx.errors import OllmlxError
from ollmlx_hub.store import MlxStore

REPO = "Systran/faster-whisper-tiny"
NETWORK = b"WhisperSpec\0"
WEIGHTS = struct.pack("<IH", 6, len(NETWORK)) + NETWORK + bytes(5000)
CONFIG = b'{"alignment_heads": []}'


def tokens(count: int) -> dict[str, bytes]:
    words = [f"w{number}" for number in range(count)]
    return {"vocabulary.txt": ("\n".join(words) + "\n").encode()}


@pytest.mark.parametrize(
    ("vocabulary", "languages"),
    [
        (tokens(51_864), "en"),
        (tokens(51_865), "many"),
        ({"vocabulary.json": json.dumps([str(number) for number in range(51_866)]).encode()}, "many"),
    ],
)
async def test_it_is_pulled_whole_and_listed_as_a_model_that_hears(
    hub: HubServer, store: MlxStore, pull: Pull, vocabulary: dict[str, bytes], languages: str
) -> None:
    files = {"model.bin": WEIGHTS, "config.json": CONFIG, "tokenizer.json": b"{}", **vocabulary}
    hub.add(REPO, {**files, "README.md": b"# hello"})
    await pull(REPO)
    model = await found(store, REPO)
    assert {path.name for path in model.path.iterdir()} == {*files, "ollmlx.json"}
    assert (model.format, model.details.family, model.capabilities) == ("ctranslate2", "whisper", ("transcription",))
    assert model.info["whisper.languages"] == languages


async def test_a_pickle_of_that_name_is_not_installed(hub: HubServer, store: MlxStore, pull: Pull) -> None:
    files = {"model.bin": b"\x80\x04pickle", "config.json": CONFIG, "tokenizer.json": b"{}", **tokens(9)}
    hub.add(REPO, files)
    with pytest.raises(OllmlxError):
        await pull(REPO)
    assert await store.list() == []
