"""The llama.cpp backend in the daemon: what it accepts, what it reserves, what it starts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers.ollama_folder import tiny_gguf

from ollmlx import LaunchOptions
from ollmlx.errors import StorageError, Unsupported
from ollmlx.plugin.registry import Registry
from ollmlx.testing import fake_model
from ollmlx.types import InstalledModel, ModelDefaults
from ollmlx_llamacpp.backend import (
    AUTOMATIC_SLOTS,
    CHEAP_CACHE_BYTES,
    INSTALL,
    SHARED_SLOTS,
    GgufShape,
    LlamaCppBackend,
    LlamaCppSettings,
    estimate,
    slots,
)

MIB = 1 << 20
SMOLLM2 = GgufShape(weights=98 * MIB, cached=30 * 3 * 128, embedding=576, inner=1536, vocabulary=49152)
LLAMA_8B = GgufShape(weights=4700 * MIB, cached=32 * 8 * 256, embedding=4096, inner=14336, vocabulary=128256)
shapes = st.builds(
    GgufShape,
    weights=st.integers(1, 1 << 40),
    cached=st.integers(0, 1 << 20),
    embedding=st.integers(0, 1 << 14),
    inner=st.integers(0, 1 << 16),
    vocabulary=st.integers(0, 1 << 18),
)


def backend(*, installed: bool = True, **settings: int) -> LlamaCppBackend:
    return LlamaCppBackend(LlamaCppSettings(**settings), installed=lambda: installed)


def gguf(folder: Path, data: bytes | None = None, defaults: ModelDefaults | None = None) -> InstalledModel:
    file = folder / "model.gguf"
    file.write_bytes(tiny_gguf(block_count=2) if data is None else data)
    return fake_model(format="gguf", path=file, defaults=defaults or ModelDefaults())


def test_without_llama_cpp_the_command_that_installs_it_is_named(tmp_path: Path) -> None:
    model = gguf(tmp_path)
    refusal = backend(installed=False).accepts(model)
    assert refusal is not None
    assert (refusal.reason, refusal.hint, refusal.code) == ("llama.cpp is not installed", INSTALL, "ENV021")
    registry = Registry()
    registry.backends.add("llamacpp", backend(installed=False), "llamacpp")
    with pytest.raises(Unsupported) as refused:
        registry.backend_for(model)
    assert refused.value.hint == INSTALL


def test_a_missing_or_damaged_file_is_an_error_before_any_process_starts(tmp_path: Path) -> None:
    model = gguf(tmp_path, b"GGUF" + b"\xff" * 100)
    with pytest.raises(StorageError, match="not a usable GGUF file"):
        backend().estimate(model, 512, 1)
    model.path.unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        backend().command(model, LaunchOptions(context_length=512))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    one = backend()
    before = one.estimate(gguf(tmp_path), 512, 1)
    model = gguf(tmp_path, tiny_gguf(weights=1 << 20))
    os.utime(model.path, (1, 1))
    assert one.estimate(model, 512, 1).weights > before.weights


def test_files_beside_the_weights_are_counted(tmp_path: Path) -> None:
    plain = backend().estimate(gguf(tmp_path), 512, 1)
    (tmp_path / "mmproj.gguf").write_bytes(b"x" * 5000)
    (tmp_path / "draft.gguf").write_bytes(tiny_gguf(weights=4096))
    beside = ModelDefaults(projector=tmp_path / "mmproj.gguf", draft=tmp_path / "draft.gguf")
    both = backend().estimate(gguf(tmp_path, defaults=beside), 512, 1)
    assert both.weights == plain.weights + 5000 + (tmp_path / "draft.gguf").stat().st_size


def test_a_model_hears_with_an_audio_encoder_and_pyav(tmp_path: Path) -> None:
    ears = {"clip.has_audio_encoder": True, "clip.audio.embedding_length": 1280, "clip.audio.feed_forward_length": 5120}
    plain = gguf(tmp_path)
    seen = gguf(tmp_path, defaults=ModelDefaults(projector=plain.path))
    hearing = seen.model_copy(update={"projector_info": ears})
    seeing = hearing.model_copy(update={"projector_info": {"clip.has_vision_encoder": True}})
    assert [backend().hears(one) for one in (plain, hearing, seeing)] == [False, True, False]
    assert not replace(backend(), decodes=lambda: False).hears(hearing)
    work = [backend().estimate(one, 512, 1).overhead for one in (plain, hearing)]
    assert work[1] - work[0] == 1500 * (6 * 1280 + 2 * 5120) * 4


def test_the_command_carries_settings_and_width(tmp_path: Path) -> None:
    options = LaunchOptions(context_length=512, parallel=3, kv_cache_type="q8_0")
    command = backend(threads=5, gpu_layers=0).command(gguf(tmp_path), options)
    settings = {"kv_cache_type": "q8_0", "threads": 5, "gpu_layers": 0}
    assert command.engine_options == {"slots": 3, "exact": False, "guess": False, **settings}


def test_all_sequences_share_one_cache_unless_answers_must_be_exact(tmp_path: Path) -> None:
    model, options = gguf(tmp_path), LaunchOptions(context_length=512)
    shared, exact = backend(), backend(exact=True)
    assert shared.estimate(model, 512, 16).kv_cache == shared.estimate(model, 512, 1).kv_cache
    assert exact.estimate(model, 512, 16).kv_cache == 16 * shared.estimate(model, 512, 1).kv_cache
    assert shared.command(model, options).engine_options["slots"] == SHARED_SLOTS
    assert exact.command(model, options).engine_options["exact"]
    encoder = model.model_copy(update={"capabilities": ("embedding",)})
    assert shared.command(encoder, options).engine_options["exact"], "texts to embed share nothing"


def test_the_shape_comes_from_the_header(tmp_path: Path) -> None:
    keys = {"attention.head_count": 8, "attention.head_count_kv": 2, "feed_forward_length": 96}
    data = tiny_gguf(block_count=3, **{f"llama.{key}": value for key, value in keys.items()})
    need = backend().estimate(gguf(tmp_path, data), 1000, 1)
    assert need.weights == len(data)
    assert need.kv_per_token == 3 * 2 * (64 // 8) * 2 * 2
    assert need.kv_cache == 1000 * need.kv_per_token


@pytest.mark.parametrize(
    ("shape", "context", "parallel", "width"),
    [
        (SMOLLM2, 8192, 0, AUTOMATIC_SLOTS),
        (SMOLLM2, 8192, 7, 7),
        (LLAMA_8B, 8192, 0, AUTOMATIC_SLOTS),
        (LLAMA_8B, 32768, 0, 1),
        (LLAMA_8B, 131072, 0, 1),
        (LLAMA_8B, 131072, 2, 2),
    ],
)
def test_an_automatic_width_stays_affordable(shape: GgufShape, context: int, parallel: int, width: int) -> None:
    assert slots(shape, context, parallel, "auto", exact=True) == width


@given(shapes, st.integers(1, 1 << 20), st.integers(0, 64), st.sampled_from(["auto", "q8_0", "q4_0"]))
def test_an_estimate_covers_file_and_caches(shape: GgufShape, context: int, parallel: int, kind: str) -> None:
    need = estimate(shape, context, parallel, kind, exact=True)
    width = slots(shape, context, parallel, kind, exact=True)
    assert need.total >= shape.weights + width * shape.kv_cache(context, kind)
    more = estimate(shape, context + 1, width, kind, exact=True)
    assert more.total >= estimate(shape, context, width, kind, exact=True).total
    if not parallel and width > 1:
        assert need.kv_cache <= max(CHEAP_CACHE_BYTES, shape.weights)
    full = estimate(shape, context, width, "auto", exact=True)
    assert estimate(shape, context, width, kind, exact=True).total <= full.total
    assert estimate(shape, context, parallel, kind, exact=False).total <= need.total


def test_guesses_need_room_and_go_with_nothing_exact(tmp_path: Path) -> None:
    model, options = gguf(tmp_path), LaunchOptions(context_length=512)
    command = backend(guess=True).command(model, options)
    assert (command.engine_options["guess"], command.engine_options["slots"]) == (True, 4)
    seeing = gguf(tmp_path, defaults=ModelDefaults(projector=model.path))
    assert backend(guess=True).command(seeing, options).engine_options["guess"] is False
    with pytest.raises(ValueError, match="does not go with exact"):
        backend(guess=True, exact=True)
