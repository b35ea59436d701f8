"""The MLX backend in the daemon: what it accepts, what it says of the rest, and what it launches."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.random_models import write_folder

from ollmlx import ModelName, Refusal
from ollmlx.doctor.check import remedy
from ollmlx.errors import StorageError
from ollmlx.plugin.contracts import LaunchOptions
from ollmlx.plugin.loader import load_plugins
from ollmlx.settings import Settings
from ollmlx.testing import fake_model
from ollmlx.types import InstalledModel, ModelDefaults
from ollmlx_mlx.daemon.backend import FOREIGN, LARGE_PAGES, MlxBackend, MlxSettings
from ollmlx_mlx.daemon.known_models import KnownModels, installed_mlx_lm
from ollmlx_mlx.daemon.machine import MlxMachine
from ollmlx_mlx.folder import remote_code
from ollmlx_mlx.linux_cpu.blas import TunedBlas
from ollmlx_mlx.linux_cpu.openblas import PlainCopies

CPU = MlxMachine("linux", "x86_64", "Some CPU", 2, {"mlx": "1", "mlx-cpu": "1"}, root=Path("/nowhere"))
METAL = MlxMachine("darwin", "arm64", "Apple", 8, {"mlx": "1", "mlx-metal": "1"})
CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
MakeFolder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    """Make a model's folder with one small tensor: `folder(config, tokenizer_config={...})`."""
    return lambda config=CONFIG, **files: write_folder(tmp_path / "model", config, **files)


@pytest.fixture
def known() -> KnownModels:
    """The models of the installed mlx-lm."""
    installed = installed_mlx_lm()
    assert installed is not None
    return KnownModels(installed)


def backend(machine: MlxMachine = CPU, *, trusted: bool = False) -> MlxBackend:
    return MlxBackend(
        MlxSettings(),
        machine,
        TunedBlas(machine, lambda candidate: "", lambda env: 0.4, PlainCopies(None)),
        budget=lambda: 8 << 30,
        trusted=lambda model: trusted,
        mlx_lm=installed_mlx_lm(),
    )


def model(path: Path, format: str = "mlx", **defaults: Any) -> InstalledModel:
    name = ModelName.parse("org/tiny")
    return fake_model(format=format, path=path, defaults=ModelDefaults(**defaults)).model_copy(update={"name": name})


def refused(model: InstalledModel, machine: MlxMachine = CPU) -> Refusal:
    refusal = backend(machine).accepts(model)
    assert refusal is not None
    return refusal


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen3_moe", "gemma3", "mamba2", "phi-msft", "kimi_k2"])
def test_types_that_mlx_lm_serves_are_accepted(kind: str, folder: MakeFolder) -> None:
    assert backend().accepts(model(folder({**CONFIG, "model_type": kind}))) is None


@pytest.mark.fault(31)
@pytest.mark.finding("MDL003", "MDL004", "SEC005")
@pytest.mark.parametrize(
    ("config", "words", "code"),
    [
        ("{", "not valid JSON", "MDL003"),
        ("[]", "not a JSON object", "MDL003"),
        ({}, "no usable model_type", "MDL003"),
        ({"model_type": ["llama"]}, "no usable model_type", "MDL003"),
        ({"model_type": "../evil"}, "no usable model_type", "MDL003"),
        ({"model_type": "a" * 65}, "no usable model_type", "MDL003"),
        ({"model_type": "t5"}, "does not know the model type 't5'", "MDL004"),
        # These are modules of mlx-lm that are no models.
        ({"model_type": "base"}, "does not know", "MDL004"),
        ({"model_type": "cache"}, "does not know", "MDL004"),
        ({"model_type": "__init__"}, "does not know", "MDL004"),
        ({**CONFIG, "model_file": "evil.py"}, "config.json: model_file", "SEC005"),
        ({**CONFIG, "auto_map": {"AutoModel": "evil.Model"}}, "config.json: auto_map", "SEC005"),
    ],
)
def test_a_folder_that_cannot_run_is_refused_with_the_reason(
    config: Any, words: str, code: str, folder: MakeFolder
) -> None:
    refusal = refused(model(folder(config)))
    assert words in refusal.reason
    assert refusal.code == code


@pytest.mark.fault(31)
def test_a_tokenizer_with_code_of_its_own_is_refused_unless_the_model_is_trusted(folder: MakeFolder) -> None:
    path = folder(CONFIG, tokenizer_config={"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
    refusal = refused(model(path))
    assert refusal.hint == 'if you trust it: [security] allow_remote_code = ["org/tiny"]'
    assert remote_code(path) == "tokenizer_config.json: auto_map"
    assert backend(trusted=True).accepts(model(path)) is None


def test_a_gguf_file_is_refused_with_what_would_run_it(tmp_path: Path) -> None:
    refusal = refused(model(tmp_path / "x.gguf", format="gguf"))
    assert "ollmlx[llamacpp]" in (refusal.hint or "")
    assert "ollmlx create" in (refusal.hint or "")
    assert "not onnx" in refused(model(tmp_path, format="onnx")).reason


@pytest.mark.parametrize("format", FOREIGN)
def test_what_would_help_with_a_foreign_format_is_a_sentence_and_no_command(format: str, tmp_path: Path) -> None:
    refusal = refused(model(tmp_path, format=format))
    assert refusal.hint
    assert remedy(refusal.hint) == ()  # the doctor would print it to be typed


def test_damaged_or_missing_weights_are_refused_before_a_process_starts(folder: MakeFolder) -> None:
    path = folder()
    (path / "model.safetensors").write_bytes(b"\xff" * 20)
    refusal = refused(model(path))
    assert refusal.code == "MDL003"
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"pickle")
    refusal = refused(model(path))
    assert "has no model*.safetensors" in refusal.reason


def test_without_mlx_the_install_command_is_named(folder: MakeFolder) -> None:
    bare = MlxMachine("linux", "x86_64", "", 2, {"mlx": "1"})
    assert "ollmlx[cpu]" in (refused(model(folder()), bare).hint or "")


def test_the_command_isolates_the_child_and_says_what_was_chosen(folder: MakeFolder) -> None:
    command = backend().command(model(folder()), LaunchOptions(context_length=64, kv_cache_type="q8_0"))
    assert command.argv[0] == sys.executable
    assert command.argv[1:4] == ("-P", "-m", "ollmlx.runner")
    assert command.argv[-1] == "{fd}"
    assert command.engine_options["weights"] == "float32"
    assert command.engine_options["kv_cache_type"] == "q8_0"
    assert any("reference BLAS" in note for note in command.engine_options["notes"])
    assert "computes on 2 CPU streams" in command.engine_options["notes"]
    assert command.engine_options["streams"] == 2
    assert command.env == LARGE_PAGES


def test_on_metal_nothing_is_changed(folder: MakeFolder) -> None:
    command = backend(METAL).command(model(folder()), LaunchOptions(context_length=64))
    assert command.env == {}
    assert command.engine_options["weights"] == "stored"
    assert command.engine_options["streams"] == 1
    assert len(command.engine_options["notes"]) == 1


def test_a_changed_file_changes_the_estimate_and_an_unchanged_one_is_not_read_again(folder: MakeFolder) -> None:
    one = backend()
    path = folder()
    before = one.estimate(model(path), 256, 1)
    raw = json.dumps({"w": {"dtype": "F16", "shape": [4000], "data_offsets": [0, 8000]}}).encode()
    (path / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8000))
    assert one.estimate(model(path), 256, 1).weights > before.weights


def test_a_draft_model_is_charged_as_well(folder: MakeFolder) -> None:
    path = folder()
    alone = backend().estimate(model(path), 256, 1)
    both = backend().estimate(model(path, draft=path), 256, 1)
    assert both.weights == 2 * alone.weights
    assert both.kv_per_token == 2 * alone.kv_per_token


def test_an_estimate_of_a_damaged_folder_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no config\.json"):
        backend().estimate(model(tmp_path), 256, 1)


@pytest.mark.parametrize("format", ["gguf", "mlx"])
def test_importers_exist_for_what_can_be_imported(format: str) -> None:
    command = backend().importer(format)
    assert command is not None
    assert command.argv[-1] == "ollmlx_mlx.importer"


def test_knowledge_of_models_is_read_without_importing_mlx_lm(known: KnownModels) -> None:
    assert known.rotates({"model_type": "gemma3_text"})
    assert known.rotates({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}})
    assert not known.rotates({"model_type": "qwen2"})
    assert known.keeps_latents({"model_type": "deepseek_v3"})
    assert not known.keeps_latents({"model_type": "minicpm3"})
    assert known.module("../utils") is None


def test_what_a_configuration_leaves_out_is_mlx_lms_default(known: KnownModels) -> None:
    text = {"model_type": "gemma3_text", "sliding_window": 64, "head_dim": None}
    complete = known.complete({"model_type": "gemma3", "text_config": text})
    assert complete["sliding_window"] == 64
    assert complete["sliding_window_pattern"] == 6
    assert complete["head_dim"] == 256


@pytest.mark.finding("CFG008")
def test_an_unknown_setting_switches_the_plugin_off_and_not_the_plugin_cluster() -> None:
    settings = Settings.model_validate({"plugins": {"mlx": {"float64_share": 0.5}}})
    loaded = {plugin.name: plugin for plugin in load_plugins(settings).loaded}
    assert "float64_share: unknown key" in str(loaded["mlx"].problem)
    assert (loaded["mlx"].code, loaded["cluster"].problem) == ("CFG008", None)
