"""Ollama's models folder is read as Ollama reads it, and every manifest and blob is checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tests.servers.ollama_folder import GO_TEMPLATE, OllamaFolder, digest, tiny_gguf, usual_layers
from tests.servers.tiny import damage
from tests.unit.plugins.ollama_store.conftest import found, listed

from ollmlx import ModelName
from ollmlx.errors import StorageError, Unsupported
from ollmlx.types import Message
from ollmlx_ollama_store.store import OllamaStore

THINKING_TEMPLATE = "{% if tools %}{% endif %}<think>"


async def test_a_model_is_what_its_manifest_says(ollama: OllamaFolder, store: OllamaStore) -> None:
    weights = tiny_gguf()
    path = ollama.add("llama3.2", usual_layers(weights))
    model = await found(store, "llama3.2")
    assert (model.store, model.format, model.path) == ("ollama", "gguf", ollama.blob(digest(weights)))
    assert model.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = json.loads(path.read_bytes())
    assert model.size == sum(layer["size"] for layer in [manifest["config"], *manifest["layers"]])
    assert model.modified_at.timestamp() == pytest.approx(path.stat().st_mtime)
    details = model.details
    assert (details.format, details.family, details.families) == ("gguf", "llama", ("llama",))
    assert (details.parameter_size, details.quantization_level) == ("134.52M", "Q4_K_M")
    assert (details.context_length, details.embedding_length) == (512, 64)
    assert model.source == "ollama:registry.ollama.ai/library/llama3.2:latest"
    assert model.info["general.architecture"] == "llama"
    assert "tokenizer.ggml.tokens" not in model.info


async def test_template_system_parameters_and_license_are_read(ollama: OllamaFolder, store: OllamaStore) -> None:
    turns = json.dumps([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]).encode()
    ollama.add("m", usual_layers(messages=turns, license=[b"one", b"two"]))
    model = await found(store, "m")
    assert model.chat_template == GO_TEMPLATE
    assert model.defaults.template == GO_TEMPLATE, "the weights' own template knows no tools"
    assert model.defaults.system == "You are terse."
    assert model.defaults.options.stated == {"stop": ("<|im_end|>",), "temperature": 0.5}
    assert model.defaults.license == ("one", "two")
    assert model.defaults.messages == (Message(role="user", content="hi"), Message(role="assistant", content="ho"))


TOOLS_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}"


@pytest.mark.parametrize(
    ("weights", "template", "used"),
    [
        (tiny_gguf(template=""), GO_TEMPLATE, True),  # the weights have none
        (tiny_gguf(), GO_TEMPLATE, True),  # that of the weights knows no tools
        (tiny_gguf(template=TOOLS_TEMPLATE), GO_TEMPLATE, False),
        (tiny_gguf(template=TOOLS_TEMPLATE), "{% for m in messages %}{% endfor %}", True),  # in Jinja: stated
    ],
)  # fmt: skip
async def test_a_pulled_template_is_used_where_that_of_the_weights_does_less(
    ollama: OllamaFolder, store: OllamaStore, weights: bytes, template: str, used: bool
) -> None:
    ollama.add("m", {"model": weights, "template": template.encode()})
    model = await found(store, "m")
    assert model.defaults.template == (template if used else None)
    assert ("tools" in model.capabilities) == ("ools" in (template if used else TOOLS_TEMPLATE))


async def test_a_template_that_differs_from_that_of_the_model_it_was_made_from_is_used(
    ollama: OllamaFolder, store: OllamaStore
) -> None:
    weights = tiny_gguf(template=TOOLS_TEMPLATE)
    ollama.add("base", {"model": weights, "template": GO_TEMPLATE.encode()})
    for name, template, parent in (
        ("same", GO_TEMPLATE, "base"),
        ("other", "{{ .Prompt }}", "base"),
        ("orphan", GO_TEMPLATE, "gone"),
    ):
        path = ollama.add(name, {"model": weights, "template": template.encode()})
        manifest = json.loads(path.read_text())
        manifest["layers"][0]["from"] = parent
        path.write_text(json.dumps(manifest))
    templates = {name: (await found(store, name)).defaults.template for name in ("same", "other", "orphan")}
    assert templates == {"same": None, "other": "{{ .Prompt }}", "orphan": GO_TEMPLATE}


async def test_adapter_and_projector_are_read(ollama: OllamaFolder, store: OllamaStore) -> None:
    clip = tiny_gguf(architecture="clip", **{"clip.has_vision_encoder": True})
    ollama.add("m", usual_layers(projector=clip, adapter=b"lora"))
    model = await found(store, "m")
    assert model.defaults.adapter == ollama.blob(digest(b"lora"))
    assert model.defaults.projector == ollama.blob(digest(clip))
    assert model.projector_info["clip.has_vision_encoder"] is True


@pytest.mark.parametrize(
    ("weights", "template", "capabilities"),
    [
        (tiny_gguf(), GO_TEMPLATE, ("completion", "tools")),
        (tiny_gguf(), "{{ .Prompt }}", ("completion",)),
        (tiny_gguf(), "{{ if .Suffix }}<PRE>{{ .Prompt }}{{ end }}", ("completion", "insert")),
        (tiny_gguf(), "{{ .Thinking }}{{- if .Tools }}t{{ end }}", ("completion", "tools", "thinking")),
        (tiny_gguf(template=THINKING_TEMPLATE), None, ("completion", "tools", "thinking")),
        (tiny_gguf(architecture="bert", pooling_type=1), "{{ .Prompt }}", ("embedding",)),
        (tiny_gguf(**{"vision.block_count": 4}), "{{ .Prompt }}", ("completion",)),
        (tiny_gguf(**{"llama.vision.block_count": 4}), "{{ .Prompt }}", ("completion", "vision")),
    ],
)  # fmt: skip
async def test_capabilities_come_from_weights_and_template(
    ollama: OllamaFolder, store: OllamaStore, weights: bytes, template: str | None, capabilities: tuple[str, ...]
) -> None:
    ollama.add("m", {"model": weights, **({"template": template.encode()} if template else {})})
    model = await found(store, "m")
    assert model.capabilities == capabilities
    assert model.chat_template == (template or THINKING_TEMPLATE), "else that of the weights"


@pytest.mark.parametrize(
    ("origin", "name", "tag", "asked", "shown"),
    [
        ("registry.ollama.ai/library", "phi3", "latest", "phi3", "phi3"),
        ("registry.ollama.ai/library", "phi3", "mini-Q4_0", "PHI3:MINI-q4_0", "phi3:mini-Q4_0"),
        ("registry.ollama.ai/mxbai", "embed", "latest", "mxbai/embed", "mxbai/embed"),
        ("registry.ollama.ai/mxbai", "embed", "latest", "registry.ollama.ai/mxbai/embed", "mxbai/embed"),
        ("hf.co/bartowski", "X-GGUF", "Q4_K_M", "hf.co/bartowski/X-GGUF:Q4_K_M", "bartowski/X-GGUF:Q4_K_M"),
        ("localhost:5000/me", "x", "v1", "localhost:5000/me/x:v1", "localhost:5000/me/x:v1"),
    ],
)
async def test_every_name_that_ollama_takes_finds_its_model(
    ollama: OllamaFolder, store: OllamaStore, origin: str, name: str, tag: str, asked: str, shown: str
) -> None:
    ollama.add(name, origin=origin, tag=tag)
    assert (await found(store, asked)).name.short == shown
    assert await listed(store) == [shown]


async def test_of_two_manifests_that_make_one_name_ollamas_registry_wins(
    ollama: OllamaFolder, store: OllamaStore
) -> None:
    ollama.add("x", {"model": tiny_gguf(fill=1)}, origin="hf.co/org")
    ollama.add("x", {"model": tiny_gguf(fill=2)}, origin="registry.ollama.ai/org")
    assert await listed(store) == ["org/x"]
    assert (await found(store, "org/x")).source == "ollama:registry.ollama.ai/org/x:latest"
    assert (await found(store, "hf.co/org/x")).source == "ollama:hf.co/org/x:latest"


async def test_models_for_ollamas_mlx_engine_have_a_format_of_their_own(
    ollama: OllamaFolder, store: OllamaStore
) -> None:
    tensors: list[bytes] = [b"tensor one", b"tensor two"]
    layers: dict[str, bytes | list[bytes]] = {"tensor": tensors, "json": b"{}"}
    ollama.add("m", layers, model_format="safetensors", capabilities=["completion", "tools", "image"])
    model = await found(store, "m")
    assert model.format == "ollama-safetensors"
    assert model.details.format == "safetensors"
    assert model.capabilities == ("completion", "tools")


async def test_a_cloud_model_is_not_listed_and_its_error_says_why(ollama: OllamaFolder, store: OllamaStore) -> None:
    ollama.add("big", {}, tag="cloud", model_format="", remote_host="https://ollama.com:443", remote_model="big")
    assert await listed(store) == []
    with pytest.raises(Unsupported, match=r"big:cloud: it runs at https://ollama.com:443, not on this machine"):
        await found(store, "big:cloud")


async def test_reading_changes_nothing_not_even_in_a_folder_that_cannot_be_written(
    ollama: OllamaFolder, store: OllamaStore
) -> None:
    ollama.add("a")
    ollama.add("b", usual_layers(adapter=b"lora"), origin="hf.co/org")
    (ollama.root / "blobs" / ("sha256-" + "0" * 64 + "-partial")).write_bytes(b"half")
    before = ollama.contents()
    assert len(await store.list()) == 2
    assert await store.resolve(ModelName.parse("a")) is not None
    assert await store.resolve(ModelName.parse("nothing")) is None
    assert ollama.contents() == before


# -- damaged models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "sha256-[0-9a-f]* is missing"),
        ("cut", "has [0-9]* bytes, the manifest says"),
        ("link outside", "leads out of the models folder"),
        ("pipe", "is not a regular file"),
    ],
)
async def test_a_model_with_a_damaged_blob_is_not_listed_and_its_error_says_why(
    ollama: OllamaFolder, store: OllamaStore, kind: str, words: str
) -> None:
    ollama.add("m")
    ollama.add("sound", {"model": tiny_gguf(fill=3)})
    assert len(await store.list()) == 2
    damage(ollama.blob(digest(tiny_gguf())), kind, ollama.root.parent)
    assert [model.name.short for model in await store.list()] == ["sound"]
    with pytest.raises(StorageError, match=f"^m: .*{words}") as caught:
        await store.resolve(ModelName.parse("m"))
    assert (caught.value.code, caught.value.hint is not None) == ("MDL003", True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"<html>please log in</html>",
        b"[]",
        b'{"schemaVersion": 1, "config": {}, "layers": []}',
        b'{"schemaVersion": 2, "config": {"digest": "sha256:../../etc/passwd", "size": 1}, "layers": []}',
        b'{"schemaVersion": 2, "config": {"digest": "sha256:' + b"0" * 64 + b'", "size": -1}, "layers": []}',
        b'{"schemaVersion": 2, "config": {"digest": "md5:' + b"0" * 64 + b'", "size": 1}, "layers": []}',
        b"[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
async def test_a_damaged_manifest_is_an_error_and_makes_no_path(
    ollama: OllamaFolder, store: OllamaStore, content: bytes
) -> None:
    ollama.add("m").write_bytes(content)
    assert await listed(store) == []
    with pytest.raises(StorageError, match=r"m: manifests/registry.ollama.ai/library/m/latest is damaged"):
        await found(store, "m")


async def test_folders_on_another_disk_may_be_linked_as_a_whole(
    ollama: OllamaFolder, store: OllamaStore, tmp_path: Path
) -> None:
    ollama.add("m")
    (ollama.root / "blobs").rename(tmp_path / "other-disk")
    (ollama.root / "blobs").symlink_to(tmp_path / "other-disk")
    assert await listed(store) == ["m"]


async def test_files_without_a_model_name_are_ignored(ollama: OllamaFolder, store: OllamaStore) -> None:
    ollama.add("m")
    for stray in ("manifests/README", "manifests/host/file", "manifests/registry.ollama.ai/library/a..b/latest"):
        path = ollama.root / stray
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    assert await listed(store) == ["m"]
