"""Caches between requests and processes: shared, shortened, quantised, saved, and checked before use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from tests.engine_requests import ask, cancel_when, collect, config_for, running, together
from tests.random_models import ARCHITECTURES, random_model

from ollmlx.testing.waiting import eventually
from ollmlx.types import Text
from ollmlx_mlx.engine.engine import MlxEngine
from ollmlx_mlx.engine.instance import build
from ollmlx_mlx.engine.kv_cache import make_layers
from ollmlx_mlx.engine.prefix_cache import MOST_IN_MEMORY, PrefixCache

pytestmark = pytest.mark.mlx
LONG = "word " * 150
CacheDir = dict[str, Any]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, tiny_vocabulary: dict[str, Any]) -> Path:
    """Heads of 32: wide enough to be quantised."""
    config = {**ARCHITECTURES["llama"], "head_dim": 32}
    return random_model(tmp_path_factory.mktemp("caches") / "llama", config, tiny_vocabulary)


@pytest.fixture
def saved(tmp_path: Path) -> CacheDir:
    return {"cache_dir": tmp_path / "caches", "cache_dir_bytes": 1 << 28}


async def save_one_cache(folder: Path, saved: CacheDir) -> tuple[int, ...]:
    """Run an engine that leaves one saved cache. Returns the ids of its conversation."""
    async with running(MlxEngine(), folder, **saved) as engine:
        context = (await collect(engine, ask(LONG))).done.context
    assert len(_files(saved)) == 1
    return context


def _files(saved: CacheDir) -> list[Path]:
    return sorted(saved["cache_dir"].rglob("*.safetensors"))


@pytest.mark.parametrize("damaged", [slice(-100), slice(0), slice(100, None)], ids=["cut", "empty", "garbage"])
async def test_a_damaged_saved_cache_is_ignored_with_a_warning(
    damaged: slice, llama: Path, saved: CacheDir, caplog: pytest.LogCaptureFixture
) -> None:
    expected = await save_one_cache(llama, saved)
    (file,) = _files(saved)
    file.write_bytes(file.read_bytes()[damaged])
    async with running(MlxEngine(), llama, **saved) as engine:
        again = await collect(engine, ask(LONG))
        assert any(f"{file.name} ignored" in note for note in engine.status().notes)
    assert f"saved prompt cache {file.name} ignored" in caplog.text
    assert again.done.cached_tokens == 0
    assert again.done.context == expected


async def test_a_saved_cache_of_another_model_is_ignored_with_a_warning(
    llama: Path, saved: CacheDir, tmp_path: Path, tiny_vocabulary: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    await save_one_cache(llama, saved)
    (foreign,) = _files(saved)
    other = random_model(tmp_path / "other", {**ARCHITECTURES["llama"], "head_dim": 16}, tiny_vocabulary)
    own = {**saved, "cache_dir": tmp_path / "others"}
    expected = await save_one_cache(other, own)
    (file,) = _files(own)
    shutil.copyfile(foreign, file)
    async with running(MlxEngine(), other, **own) as engine:
        again = await collect(engine, ask(LONG))
    assert "it belongs to another model" in caplog.text
    assert again.done.cached_tokens == 0
    assert again.done.context == expected


async def test_saved_caches_are_private_and_within_their_bound(llama: Path, saved: CacheDir) -> None:
    await save_one_cache(llama, saved)
    (file,) = _files(saved)
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0
    bound = {**saved, "cache_dir_bytes": file.stat().st_size + 100}
    async with running(MlxEngine(), llama, **bound) as engine:
        await collect(engine, ask("another " * 100))
    (newer,) = _files(saved)
    assert newer != file


async def test_what_a_cancelled_request_computed_is_kept(llama: Path) -> None:
    async with running(MlxEngine(), llama) as engine:
        await cancel_when(engine, ask(LONG, options={"num_predict": 200}), Text)
        await eventually(lambda: engine.status().active == 0)
        assert (await collect(engine, ask(LONG))).done.cached_tokens > 100


async def test_siblings_that_arrive_together_compute_their_common_beginning_once(llama: Path) -> None:
    questions = [ask(f"{LONG} number {index}") for index in range(4)]
    async with running(MlxEngine(), llama, prompt_cache_bytes=0, parallel=4) as engine:
        alone = [(await collect(engine, question)).done for question in questions]
        batch = [one.done for one in await together(engine, questions)]
    assert [done.context for done in batch] == [done.context for done in alone]
    assert sorted(done.cached_tokens > 100 for done in batch) == [False, True, True, True]


async def test_short_prompts_that_arrive_together_are_computed_together(llama: Path) -> None:
    questions = [ask("ab " * (3 + index), options={"num_predict": 1}) for index in range(6)]
    async with running(MlxEngine(), llama, prompt_cache_bytes=0, parallel=6) as engine:
        alone = [(await collect(engine, question)).done.context for question in questions]
        before = engine.status().progress
        batch = [one.done.context for one in await together(engine, questions)]
        assert batch == alone
        assert engine.status().progress - before < len(questions)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
async def test_a_quantised_cache_takes_less_memory_and_serves_the_next_turn_and_process(
    kind: str, llama: Path, saved: CacheDir
) -> None:
    held: dict[str, int] = {}
    for cache in ("auto", kind):
        more = {"engine_options": {"kv_cache_type": cache}, **saved}
        async with running(MlxEngine(), llama, **more) as engine:
            first = await collect(engine, ask(LONG))
            held[cache] = await eventually(lambda: engine.status().prompt_cache_bytes)
            turn = ask(LONG, first.text, "and then?")
            second = await collect(engine, turn)
            assert second.done.cached_tokens > 100
            alone = engine.status().parallel == 1
            assert alone == (cache != "auto")
            assert alone == any("one by one" in note for note in engine.status().notes)
        async with running(MlxEngine(), llama, **more) as engine:
            revived = await collect(engine, turn)
            assert revived.done.cached_tokens > 100
            assert revived.done.context == second.done.context
    assert held[kind] < (0.4 if kind == "q8_0" else 0.25) * held["auto"]


# Attention sinks, latents, windows: caches that cannot be quantised stay as they are, with a note.
@pytest.mark.parametrize("name", ["gpt_oss", "deepseek_v3", "gemma3_text", "mamba2", "qwen3_next"])
async def test_no_architecture_fails_because_its_cache_is_to_be_quantised(
    name: str, tmp_path: Path, tiny_vocabulary: dict[str, Any]
) -> None:
    config = {**ARCHITECTURES[name]}
    if "head_dim" in config and name != "mamba2":
        config["head_dim"] = 32
    folder = random_model(tmp_path / name, config, tiny_vocabulary)
    async with running(MlxEngine(), folder, engine_options={"kv_cache_type": "q8_0"}) as engine:
        assert (await collect(engine, ask(LONG))).done.generated_tokens > 0
        assert engine.status().error is None
        notes = [note for note in engine.status().notes if "cannot be q8_0" in note]
        assert bool(notes) == (name in ("gpt_oss", "deepseek_v3", "mamba2"))


def test_only_the_newest_of_many_short_sequences_stay_in_memory(llama: Path) -> None:
    model = build(config_for(llama), lambda _: None).loaded.model
    prefixes = PrefixCache(1 << 40)
    for number in range(MOST_IN_MEMORY + 3):
        layers = make_layers(model)
        model(mx.array([[number] * 10]), cache=layers)
        prefixes.insert("", [number] * 10, layers)
    assert len(prefixes) == MOST_IN_MEMORY
    assert prefixes.fetch("", [2] * 11) == (None, 0)
    assert prefixes.fetch("", [3] * 11)[1] == 10
