"""Folders that version 0.1.0 wrote are read by this one; those of a newer version are refused by its number.

`python -m tests.contract.test_upgrades FOLDER` records a folder with the code as it is, for a release.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache
from tests.servers.ollama_folder import tiny_gguf
from tests.servers.tiny import FileSource, tiny_files

from ollmlx import ModelName
from ollmlx.errors import StorageError
from ollmlx.supervisor.process.state_folder import RunnerRecord, RunnerRecords
from ollmlx_hub.store import MlxStore
from ollmlx_mlx.engine.cache_folder import CacheFolder
from ollmlx_mlx.engine.kv_cache import Layers
from ollmlx_mlx.engine.prefix_cache import CachedPrefix
from ollmlx_ollama_store.store import OllamaStore

WRITTEN = Path(__file__).parent / "written_by_0.1.0"
NAME = ModelName.parse("org/tiny")
IDENTITY = {"model": "tiny", "mlx_lm": "any"}
TOKENS = np.arange(300, dtype=np.int32)


def layers() -> Layers:
    cache = KVCache()
    values = mx.broadcast_to(mx.arange(300).reshape(1, 1, 300, 1), (1, 1, 300, 2)).astype(mx.float32)
    cache.update_and_fetch(values, values)
    return [cache]


def caches(folder: Path) -> CacheFolder:
    return CacheFolder(folder / "caches/org+tiny", IDENTITY, 1 << 20, [KVCache()])


async def record(folder: Path) -> None:
    """Write models of both stores, a saved prompt cache and the record of a runner."""
    for step in (
        MlxStore(folder / "models/mlx").pull(NAME, FileSource(tiny_files(), "mlx"), None),
        OllamaStore(folder / "models").pull(NAME, FileSource({"tiny.gguf": tiny_gguf()}, "gguf"), None),
    ):
        async for _ in step:
            pass
    caches(folder).save([CachedPrefix("", TOKENS, layers(), 1 << 10, True)])
    RunnerRecords(folder / "state/runners").write(RunnerRecord("tiny", 1 << 21, "1.0", "another boot", "nonce"))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A copy of what version 0.1.0 wrote."""
    return Path(shutil.copytree(WRITTEN, tmp_path / "written"))


async def test_its_models_are_listed_with_what_they_can_do(written: Path) -> None:
    mlx, gguf = MlxStore(written / "models/mlx"), OllamaStore(written / "models")
    (first,), (second,) = await mlx.list(), await gguf.list()
    assert (first.name, first.format, first.capabilities) == (NAME, "mlx", ("completion", "tools"))
    assert (second.name, second.format, second.details.format) == (NAME, "gguf", "gguf")
    await mlx.delete(NAME)
    await gguf.delete(NAME)
    assert not [*await mlx.list(), *await gguf.list()]


def test_its_saved_prompts_are_read(written: Path) -> None:
    found, problems = caches(written).read_index()
    assert not problems
    (entry,) = found
    assert entry.tokens.tolist() == TOKENS.tolist()
    assert entry.load is not None
    (layer,) = entry.load() or [None]
    assert isinstance(layer, KVCache)
    assert mx.array_equal(layer.state[0], layers()[0].state[0])


def test_encrypted_prompts_are_read_with_their_key_only_and_readable_ones_are_removed(written: Path) -> None:
    def opened(key: bytes | None) -> CacheFolder:
        return CacheFolder(written / "caches/org+tiny", IDENTITY, 1 << 20, [KVCache()], key)

    found, problems = opened(b"1" * 32).read_index()
    assert (found, len(problems)) == ([], 1)
    assert not list((written / "caches").rglob("*.safetensors"))
    opened(b"1" * 32).save([CachedPrefix("anna", TOKENS, layers(), 1 << 10, True)])
    for key in (None, b"2" * 32):
        found, problems = opened(key).read_index()
        assert (found, len(problems)) == ([], 1)
    (entry,), problems = opened(b"1" * 32).read_index()
    assert (entry.owner, entry.tokens.tolist(), problems) == ("anna", TOKENS.tolist(), [])
    assert entry.load is not None
    (layer,) = entry.load() or [None]
    assert layer is not None
    assert mx.array_equal(layer.keys, layers()[0].keys)


async def test_its_runner_records_are_read_and_removed(written: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert await RunnerRecords(written / "state/runners").end_orphans() == 0
    assert not list((written / "state/runners").iterdir())
    assert "unreadable" not in caplog.text


async def test_a_manifest_of_a_newer_version_is_refused_with_the_way_out(written: Path) -> None:
    manifest = next((written / "models/mlx").glob("*/ollmlx.json"))
    manifest.write_text(json.dumps({**json.loads(manifest.read_text("utf-8")), "version": 2}), "utf-8")
    store = MlxStore(written / "models/mlx")
    with pytest.raises(StorageError, match="written by a newer ollmlx: its format is 2") as caught:
        await store.resolve(NAME)
    assert caught.value.hint == "ollmlx upgrade"


if __name__ == "__main__":
    asyncio.run(record(Path(sys.argv[1])))
