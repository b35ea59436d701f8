"""Loading: the form of weights, adapters, drafts, MLX's limits, and the errors for files that are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import mlx.core as mx
import numpy as np
import pytest
from mlx.nn.layers.linear import Linear
from mlx_lm.utils import load_model as load_stored
from tests.engine_requests import ask, collect, config_for, together
from tests.unit.plugins.mlx.conftest import WriteGguf

from ollmlx.errors import OutOfMemory, StorageError
from ollmlx.protocol import RunnerConfig
from ollmlx.testing import fake_model
from ollmlx.types import ModelDefaults
from ollmlx_mlx.engine.device import CPU_BUFFERS, device_name, limit_memory
from ollmlx_mlx.engine.engine import MlxEngine
from ollmlx_mlx.engine.load import LoadedModel, load_error, load_model
from ollmlx_mlx.importer.gguf_import import import_gguf

pytestmark = pytest.mark.mlx
PROMPT = [[5, 77, 301, 12, 9]]
PEFT = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}


@pytest.fixture
def folder(write_gguf: WriteGguf, tmp_path: Path) -> Path:
    """A tiny quantised llama."""
    into = tmp_path / "tiny"
    into.mkdir()
    import_gguf(write_gguf("llama", kind="Q8_0"), into, lambda _: None)
    return into


def config(folder: Path, *, weights: str = "float32", **defaults: Any) -> RunnerConfig:
    found = config_for(folder, context_length=256, engine_options={"weights": weights, "notes": ["why"]})
    model = found.model.model_copy(update={"defaults": ModelDefaults(**defaults)})
    return found.model_copy(update={"model": model})


def logits(loaded: LoadedModel) -> np.ndarray:
    return np.array(loaded.model(mx.array(PROMPT)).astype(mx.float32))


def alike(one: np.ndarray, other: np.ndarray, share: float = 1e-3) -> bool:
    return bool(np.abs(one - other).max() < share * np.abs(other).max())


@pytest.mark.parametrize("form", ["float32", "packed"])
def test_on_a_cpu_everything_is_computed_in_float32_whatever_the_weights_are(form: str, folder: Path) -> None:
    if device_name() != "cpu":
        pytest.skip("MLX computes on a GPU here")
    steps: list[float] = []
    loaded = load_model(config(folder, weights=form), steps.append)
    stored, _ = load_stored(folder)
    assert loaded.device == "cpu"
    assert loaded.model(mx.array(PROMPT)).dtype == mx.float32
    assert alike(logits(loaded), np.array(stored(mx.array(PROMPT)).astype(mx.float32)), 0.02)
    assert loaded.notes[0] == "why"
    assert ("float32" in loaded.notes[1]) == (form == "float32")
    assert hasattr(loaded.model.layers[0].self_attn.q_proj, "bits") == (form == "packed")
    assert steps == sorted(steps)
    assert steps[-1] == 1.0


def write_adapter(into: Path, *, peft: bool = False, strength: float = 1.0) -> Path:
    """A random LoRA on the queries of the last layer, in mlx-lm's or in PEFT's form, with the same effect."""
    rng = np.random.default_rng(5)
    into.mkdir()
    down, up = (mx.array(rng.standard_normal(shape).astype(np.float32)) for shape in ((64, 4), (4, 64)))
    up = up * strength
    path = "model.layers.1.self_attn.q_proj"
    if peft:
        weights = {f"base_model.model.{path}.lora_A.weight": down.T, f"base_model.model.{path}.lora_B.weight": up.T}
        about: dict[str, Any] = PEFT
    else:
        weights = {f"{path}.lora_a": down, f"{path}.lora_b": up}
        parameters = {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
        about = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters}
    mx.save_safetensors(str(into / ("adapter_model.safetensors" if peft else "adapters.safetensors")), weights)
    (into / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")
    return into


def test_an_adapter_changes_the_answers_alike_in_every_form(folder: Path, tmp_path: Path) -> None:
    plain = logits(load_model(config(folder)))
    own = write_adapter(tmp_path / "own")
    fused = load_model(config(folder, adapter=own))
    beside = load_model(config(folder, adapter=own, weights="packed"))
    peft = load_model(config(folder, adapter=write_adapter(tmp_path / "peft", peft=True)))
    assert not alike(logits(fused), plain, 0.05)
    assert alike(logits(fused), logits(beside), 0.01)
    assert alike(logits(fused), logits(peft))
    assert "adapter own" in fused.notes
    assert isinstance(fused.model.layers[1].self_attn.q_proj, Linear)


def test_an_adapter_inside_the_models_folder_is_found_by_its_relative_path(folder: Path) -> None:
    write_adapter(folder / "adapter")
    assert "adapter adapter" in load_model(config(folder, adapter=Path("adapter"))).notes


BAD_RANK = '{"num_layers": 1, "lora_parameters": {"rank": 8, "scale": 1, "dropout": 0}}'


@pytest.mark.parametrize(
    ("peft", "name", "content", "words"),
    [
        (False, "adapter_config.json", None, "no adapter_config.json"),
        (False, "adapters.safetensors", None, "no adapters.safetensors"),
        (False, "adapter_config.json", "{", "not valid JSON"),
        (False, "adapter_config.json", "{}", "does not fit"),
        (False, "adapters.safetensors", "nonsense", "does not fit"),
        (False, "adapter_config.json", BAD_RANK, "does not match"),
        (True, "adapter_config.json", json.dumps({**PEFT, "peft_type": "IA3"}), "'IA3'"),
        (True, "adapter_config.json", json.dumps({**PEFT, "use_dora": True}), "use_dora"),
        (True, "adapter_config.json", json.dumps({**PEFT, "r": 8}), "other sizes"),
        (True, "adapter_config.json", json.dumps({**PEFT, "r": "x"}), "does not fit"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(
    peft: bool, name: str, content: str | None, words: str, folder: Path, tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter", peft=peft)
    (adapter / name).unlink()
    if content is not None:
        (adapter / name).write_text(content, encoding="utf-8")
    with pytest.raises(StorageError) as refused:
        load_model(config(folder, adapter=adapter))
    assert words in refused.value.message


@pytest.mark.finding("MDL007")
def test_a_draft_needs_the_same_vocabulary(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "draft"
    shutil.copytree(folder, other)
    loaded = load_model(config(folder, draft=other))
    assert loaded.draft is not None
    assert "drafts tokens with draft" in loaded.notes
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    last = max(tokenizer["model"]["vocab"], key=lambda token: tokenizer["model"]["vocab"][token])
    tokenizer["model"]["vocab"]["unheard-of"] = tokenizer["model"]["vocab"].pop(last)
    tokenizer["model"]["merges"] = [
        pair for pair in tokenizer["model"]["merges"] if last not in (pair[0], pair[1], "".join(pair))
    ]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(StorageError, match="another vocabulary") as refused:
        load_model(config(folder, draft=other))
    assert refused.value.code == "MDL007"


@pytest.mark.parametrize("architecture", ["llama"], indirect=True)
@pytest.mark.parametrize("weights", ["float32", "packed"])
async def test_only_an_adapter_that_says_something_changes_the_text(
    architecture: Path, weights: str, tmp_path: Path
) -> None:
    requests = [ask("one two three"), ask("something else", options={"temperature": 0.8, "seed": 4})]
    said: dict[str, Any] = {}
    for name, scale in (("none", None), ("zero", 0.0), ("loud", 1.0)):
        engine = MlxEngine()
        adapter = None if scale is None else write_adapter(tmp_path / name, strength=scale)
        await engine.load(config(architecture, weights=weights, adapter=adapter))
        alone = [(await collect(engine, request)).done.context for request in requests]
        batch = [one.done.context for one in await together(engine, requests)]
        assert batch == alone
        assert (f"adapter {name}" in engine.status().notes) == (adapter is not None)
        said[name] = alone
        await engine.close()
    assert said["zero"] == said["none"]
    assert all(loud != plain for loud, plain in zip(said["loud"], said["none"], strict=True))


GREEDY: dict[str, Any] = {"num_predict": 30}
SEEDED: dict[str, Any] = {"num_predict": 30, "temperature": 0.9, "seed": 5}


# Two that can take tokens back, and one that cannot.
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mamba2"], indirect=True)
@pytest.mark.parametrize("options", [GREEDY, SEEDED])
async def test_the_text_is_the_same_with_a_draft_model(architecture: Path, options: dict[str, Any]) -> None:
    texts, steps = [], []
    for draft in (None, architecture):
        engine = MlxEngine()
        await engine.load(config(architecture, draft=draft))
        request = ask("one two three", options=options)
        before = engine.status().progress
        alone = await collect(engine, request)
        steps.append(engine.status().progress - before)
        again = await collect(engine, request)
        pair = await together(engine, [request, ask("other", options=options)])
        texts.append([one.done.context for one in (alone, again, *pair)])
        await engine.close()
    assert texts[0] == texts[1]
    if architecture.name != "mamba2" and options is GREEDY:
        # Here the draft is the model itself: every guess is right.
        assert steps[1] < steps[0] / 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "llama"}'),
        ("config.json", b'{"model_type": "bert"}'),
        ("model.safetensors", b"\x10\0\0\0\0\0\0\0nonsense"),
        ("model.safetensors", None),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", None),
    ],
)
@pytest.mark.fault(2)
@pytest.mark.fault(30)
def test_a_damaged_folder_is_a_bad_model_without_a_path_in_it(name: str, content: bytes | None, folder: Path) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(StorageError) as refused:
        load_model(config(folder))
    assert refused.value.message.startswith("cannot load tiny")
    assert str(folder.parent) not in refused.value.message


@pytest.mark.fault(31)
def test_code_of_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')", encoding="utf-8")
    about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**about, "model_file": "evil.py"}), encoding="utf-8")
    with pytest.raises(StorageError):
        load_model(config(folder))
    assert not trace.exists()


@pytest.mark.fault(8)
@pytest.mark.parametrize("said", ["[malloc] Unable to allocate 4 bytes", "CUDA error: out of memory"])
def test_missing_memory_is_not_a_bad_model(said: str) -> None:
    assert isinstance(load_error(RuntimeError(said), Path("/m/x")), OutOfMemory)
    assert isinstance(load_error(MemoryError(), Path("/m/x")), OutOfMemory)
    assert isinstance(load_error(KeyError("x"), Path("/m/x")), StorageError)


GIB = 1024**3


def limits(*, metal: bool, size: int = 4 * GIB, device: str = "gpu", **fields: Any) -> dict[str, int]:
    """The limits that are set, by function of `mlx.core`, on a machine with or without Metal."""
    core = Mock()
    core.DeviceType.cpu = "cpu"
    core.default_device.return_value.type = device
    core.metal.is_available.return_value = metal
    core.device_info.return_value = {"max_recommended_working_set_size": 12 * GIB}
    model = fake_model("parrot", size=size)
    limit_memory(RunnerConfig(runner="r", token="t", model=model, context_length=1, **fields), core)
    return {name: args[0] for name, args, _ in core.mock_calls if name.startswith("set_")}


def test_memory_and_cache_are_limited_on_every_device() -> None:
    assert limits(metal=False, memory_limit=8 * GIB, cache_limit=0) == {
        "set_memory_limit": 8 * GIB,
        "set_cache_limit": 0,
    }
    assert limits(metal=False) == {}


def test_a_cpu_keeps_few_free_buffers() -> None:
    assert limits(metal=False, device="gpu", cache_limit=GIB) == {"set_cache_limit": GIB}
    assert limits(metal=False, device="cpu", cache_limit=GIB) == {"set_cache_limit": CPU_BUFFERS}
    assert limits(metal=False, device="cpu", cache_limit=1) == {"set_cache_limit": 1}


@pytest.mark.parametrize(
    ("wired", "size", "budget", "expected"),
    [
        ("off", 4 * GIB, 8 * GIB, None),
        ("model", 4 * GIB, 8 * GIB, 4 * GIB),
        ("model", 20 * GIB, None, 12 * GIB),
        ("max", 4 * GIB, 8 * GIB, 8 * GIB),
        ("max", 4 * GIB, 64 * GIB, 12 * GIB),
    ],
)
def test_wired_memory_is_on_request_and_within_budget_and_metals_advice(
    wired: str, size: int, budget: int | None, expected: int | None
) -> None:
    assert limits(metal=True, size=size, wired=wired, memory_limit=budget).get("set_wired_limit") == expected
    assert "set_wired_limit" not in limits(metal=False, size=size, wired=wired, memory_limit=budget)
