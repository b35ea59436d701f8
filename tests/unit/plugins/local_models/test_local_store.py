"""Models of other programs: found in their folders, described, named, and never changed."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from tests.servers.ollama_folder import tiny_gguf
from tests.servers.tiny import tiny_files

from ollmlx import ModelName
from ollmlx.errors import Conflict, NotFound, Unsupported
from ollmlx.types import CreateRequest, InstalledModel
from ollmlx_local_models.folders import known_folders
from ollmlx_local_models.store import LocalStore

REVISION = "0123456789abcdef0123456789abcdef01234567"


class Home:
    """A home folder with the models of other programs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def store(self, *more: Path, platform: str = "linux", **environment: str) -> LocalStore:
        return LocalStore(known_folders(environment, platform, self.root, more))

    def cache(self, repository: str, files: dict[str, bytes], *, revision: str = REVISION, main: bool = True) -> Path:
        """Write a repository as `hf download` does: blobs, and a snapshot of links. Returns the snapshot."""
        folder = self.root / ".cache/huggingface/hub" / f"models--{repository.replace('/', '--')}"
        snapshot = folder / "snapshots" / revision
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        for index, (name, data) in enumerate(files.items()):
            blob = folder / "blobs" / f"{revision[:6]}{index}"
            blob.write_bytes(data)
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
        if main:
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs/main").write_text(revision)
        return snapshot

    def write(self, folder: str, files: dict[str, bytes]) -> Path:
        for name, data in files.items():
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return self.root / folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


async def names(store: LocalStore) -> list[str]:
    return sorted(model.name.short for model in await store.list())


async def resolved(store: LocalStore, name: str) -> InstalledModel:
    model = await store.resolve(ModelName.parse(name))
    assert model is not None
    return model


# -- finding ---------------------------------------------------------------------------------------------------------


async def test_models_of_three_programs_are_listed_under_their_repositories_names(home: Home) -> None:
    home.cache("mlx-community/Tiny-4bit", tiny_files())
    home.cache("bartowski/Tiny-GGUF", {"Tiny-Q4_K_M.gguf": tiny_gguf(), "Tiny-Q8_0.gguf": tiny_gguf(fill=2)})
    home.write(".lmstudio/models/lmstudio-community/Small-GGUF", {"small.Q4_0.gguf": tiny_gguf()})
    manifest = b'{"ggufFile": {"rfilename": "sub/Old-Q6_K.gguf"}}'
    old = {"manifest=ggml-org=Old-GGUF=latest.json": manifest, "ggml-org_Old-GGUF_sub_Old-Q6_K.gguf": tiny_gguf()}
    home.write(".cache/llama.cpp", old)
    home.write("elsewhere/me/mine", tiny_files())
    assert await names(home.store(home.root / "elsewhere")) == [
        "bartowski/Tiny-GGUF:Q4_K_M",
        "bartowski/Tiny-GGUF:Q8_0",
        "ggml-org/Old-GGUF",
        "lmstudio-community/Small-GGUF:Q4_0",
        "me/mine",
        "mlx-community/Tiny-4bit",
    ]


async def test_a_folder_and_a_file_are_described_as_other_stores_describe_theirs(home: Home) -> None:
    home.cache("org/folder", tiny_files())
    home.cache("org/file", {"x-Q4_K_M.gguf": tiny_gguf(context_length=1024)})
    folder, file = await resolved(home.store(), "org/folder"), await resolved(home.store(), "org/file")
    assert (folder.format, folder.details.quantization_level, folder.store) == ("mlx", "int4", "local")
    assert (file.format, file.details.quantization_level, file.details.context_length) == ("gguf", "Q4_K_M", 1024)
    assert file.path.name == "x-Q4_K_M.gguf"
    assert file.size == len(tiny_gguf(context_length=1024))
    assert "Hugging Face" in folder.source


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({}, ".cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "{}/xdg"}, "xdg/huggingface/hub"),
        ({"HF_HOME": "{}/hf"}, "hf/hub"),
        ({"HF_HOME": "{}/hf", "HF_HUB_CACHE": "{}/hub"}, "hub"),
    ],
)
async def test_the_cache_is_where_hugging_faces_variables_say(
    home: Home, environment: dict[str, str], folder: str
) -> None:
    home.write(f"{folder}/models--org--name/snapshots/{REVISION}", tiny_files())
    variables = {key: value.format(home.root) for key, value in environment.items()}
    assert await names(home.store(**variables)) == ["org/name"]


async def test_the_cache_of_llama_cpp_on_macos(home: Home) -> None:
    files = {"manifest=org=x=Q4_0.json": b'{"ggufFile": {"rfilename": "x.gguf"}}', "org_x_x.gguf": tiny_gguf()}
    home.write("Library/Caches/llama.cpp", files)
    assert await names(home.store(platform="darwin")) == ["org/x:Q4_0"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "org/r:Q4_K_M"),
        ("qwen2.5-0.5b-instruct-fp16.gguf", "org/r:qwen2.5-0.5b-instruct-fp16"),
        ("model.f16.gguf", "org/r:F16"),
        ("Qwen3-8B-UD-Q4_K_XL.gguf", "org/r:UD-Q4_K_XL"),
        ("gpt-oss-20b-mxfp4.gguf", "org/r:MXFP4"),
        ("IQ3_XXS/model-IQ3_XXS-00001-of-00001.gguf", "org/r:IQ3_XXS"),
        ("model.gguf", "org/r:model"),
    ],
)
async def test_a_gguf_file_is_named_by_its_quantisation(home: Home, file: str, name: str) -> None:
    home.cache("org/r", {file: tiny_gguf()})
    assert await names(home.store()) == [name]


@pytest.mark.parametrize(
    ("files", "chosen"),
    [(("Q8_0", "Q4_K_M", "Q2_K"), "Q4_K_M"), (("Q8_0", "Q2_K"), "Q8_0"), (("Q3_K_S", "Q2_K"), "Q2_K")],
)
async def test_a_name_without_a_tag_means_the_usual_quantisation(
    home: Home, files: tuple[str, ...], chosen: str
) -> None:
    home.cache("org/r", {f"m-{kind}.gguf": tiny_gguf() for kind in files})
    assert (await resolved(home.store(), "org/r")).name.tag == chosen
    assert (await resolved(home.store(), "ORG/R:q2_k")).name.tag == "Q2_K"
    assert await home.store().resolve(ModelName.parse("org/r:Q9")) is None


async def test_the_revision_of_main_is_read_or_else_the_newest(home: Home) -> None:
    newer = "f" * 40
    home.cache("org/a", tiny_files())
    home.cache("org/a", tiny_files(weights=512), revision=newer, main=False)
    assert REVISION in str((await resolved(home.store(), "org/a")).path)
    home.cache("org/b", tiny_files(), main=False)
    assert REVISION in str((await resolved(home.store(), "org/b")).path)


async def test_a_split_file_is_one_model_with_the_size_of_all_parts(home: Home) -> None:
    part = tiny_gguf()
    home.cache("org/big", {f"big-Q4_0-0000{number}-of-00002.gguf": part for number in (1, 2)})
    (model,) = await home.store().list()
    assert model.name.short == "org/big:Q4_0"
    assert model.size == 2 * len(part)
    assert model.path.name == "big-Q4_0-00001-of-00002.gguf"


async def test_a_projector_belongs_to_the_model_beside_it(home: Home) -> None:
    home.cache("org/sees", {"m-Q4_0.gguf": tiny_gguf(), "mmproj-F16.gguf": tiny_gguf(architecture="clip")})
    (model,) = await home.store().list()
    assert model.defaults.projector is not None
    assert "vision" in model.capabilities


# -- what is not listed ----------------------------------------------------------------------------------------------


async def test_unfinished_downloads_and_other_kinds_of_models_are_not_listed(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    files = tiny_files()
    without_weights = {name: data for name, data in files.items() if not name.endswith(".safetensors")}
    home.cache("org/gated", {"README.md": b"ask for access"})
    home.cache("org/config-only", without_weights)
    home.cache("org/cut", {"x-Q4_0.gguf": tiny_gguf()[:-100]})
    home.cache("org/half", {"x-Q4_0-00001-of-00002.gguf": tiny_gguf()})
    picture = {**files, "config.json": b'{"model_type": "clip", "architectures": ["CLIPModel"]}'}
    del picture["tokenizer_config.json"]
    home.cache("org/clip", picture)
    gone = home.cache("org/gone", files)
    (gone / "model.safetensors").resolve().unlink()
    (home.root / ".cache/huggingface/hub/.locks").mkdir()
    home.cache("org/good", files)
    assert await names(home.store()) == ["org/good"]
    assert caplog.text == ""


async def test_a_link_out_of_the_repository_is_not_followed(home: Home, tmp_path: Path) -> None:
    secret = home.write("private", {"x-Q4_0.gguf": tiny_gguf()})
    snapshot = home.cache("org/bad", {"y-Q4_0.gguf": tiny_gguf()})
    (snapshot / "x-Q8_0.gguf").symlink_to(secret / "x-Q4_0.gguf")
    assert await names(home.store()) == ["org/bad:Q4_0"]


async def test_a_cache_that_changes_is_read_again(home: Home) -> None:
    store = home.store()
    assert await store.list() == []
    snapshot = home.cache("org/a", tiny_files())
    first = (await store.list())[0]
    assert (await store.list())[0] is first
    (snapshot / "generation_config.json").write_text('{"temperature": 0.1}')
    assert (await resolved(store, "org/a")).digest != first.digest
    (snapshot / "model.safetensors").unlink()
    assert await store.list() == []


async def test_a_cache_may_change_while_it_is_read(home: Home) -> None:
    home.cache("org/stays", tiny_files())
    coming = home.root / ".cache/huggingface/hub/models--org--comes"
    store, over = home.store(), threading.Event()

    def change() -> None:
        while not over.is_set():
            home.cache("org/comes", tiny_files())
            for file in (*coming.glob("snapshots/*/*"), *coming.glob("blobs/*")):
                file.unlink()
            shutil.rmtree(coming)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(30):
            assert {"org/stays"} <= {*await names(store)} <= {"org/stays", "org/comes"}
    finally:
        over.set()
        changing.join()
    assert await names(store) == ["org/stays"]


async def test_ten_thousand_folders_are_listed_and_a_read_model_is_not_read_again(home: Home) -> None:
    for number in range(10_000):
        (home.root / f".cache/huggingface/hub/models--org--m{number}/snapshots/{REVISION}").mkdir(parents=True)
    home.cache("org/good", tiny_files())
    store = home.store()
    assert await names(store) == ["org/good"]
    assert (await store.list())[0] is (await store.list())[0]


# -- never written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "command"),
    [
        (lambda home: home.cache("org/a", tiny_files()), "hf cache rm model/org/a"),
        (lambda home: home.write(".lmstudio/models/org/a", tiny_files()), "rm -r {}/.lmstudio/models/org/a"),
    ],
)
async def test_deleting_names_the_command_of_the_program_that_the_files_belong_to(
    home: Home, write: object, command: str
) -> None:
    assert callable(write)
    write(home)
    with pytest.raises(Conflict, match="belongs to") as caught:
        await home.store().delete(ModelName.parse("org/a"))
    assert caught.value.hint == command.format(home.root)
    assert await names(home.store()) == ["org/a"]
    with pytest.raises(NotFound):
        await home.store().delete(ModelName.parse("org/b"))


async def test_nothing_is_created_in_other_programs_folders(home: Home) -> None:
    home.cache("org/a", tiny_files())
    store = home.store()
    (model,) = await store.list()
    with pytest.raises(Unsupported):
        await store.copy(model, ModelName.parse("b"))
    with pytest.raises(Unsupported):
        store.create(CreateRequest(name=ModelName.parse("b"), base=model), None)
