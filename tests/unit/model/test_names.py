"""Model names: what is accepted and what is refused, no name leaves the models folder; the catalogue of short names."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollmlx.errors import InvalidRequest
from ollmlx.model.names import ModelName, load_catalogue, parse_digest


@pytest.mark.parametrize(
    ("typed", "canonical", "folder", "repo"),
    [
        ("smollm2:135m", "smollm2:135m", "smollm2@135m", None),
        ("smollm2", "smollm2:latest", "smollm2", None),
        ("library/smollm2:135m", "smollm2:135m", "smollm2@135m", None),
        ("registry.ollama.ai/library/smollm2", "smollm2:latest", "smollm2", None),
        ("mlx-community/X-4bit", "mlx-community/X-4bit:latest", "mlx-community_X-4bit", "mlx-community/X-4bit"),
        ("mlx-community_X-4bit", "mlx-community_X-4bit:latest", "mlx-community_X-4bit", "mlx-community/X-4bit"),
        ("hf.co/org/name:main", "org/name:main", "org_name@main", "org/name"),
        ("https://huggingface.co/org/name", "org/name:latest", "org_name", "org/name"),
        ("example.com:5000/org/n:1", "example.com:5000/org/n:1", "example.com+5000_org_n@1", "org/n"),
    ],
)
def test_each_spelling_has_one_canonical_form_and_one_folder(
    typed: str, canonical: str, folder: str, repo: str | None
) -> None:
    name = ModelName.parse(typed)
    assert (str(name), name.folder, name.repo_id) == (canonical, folder, repo)


def test_both_spellings_of_a_hub_model_are_the_same_model() -> None:
    assert ModelName.parse("mlx-community/x") == ModelName.parse("MLX-Community_X")
    assert hash(ModelName.parse("mlx-community/x")) == hash(ModelName.parse("mlx-community_x"))


def test_two_models_that_share_a_folder_differ_in_spelling() -> None:
    left, right = ModelName.parse("a/b_c"), ModelName.parse("a_b/c")
    assert left.folder == right.folder
    assert not left.same_spelling(right)
    assert left.same_spelling(ModelName.parse("a_b_c"))


NO_NAMES = [
    "", "   ", "../x", "a/../b", "/etc/passwd", "~/x", "C:\\x", "a\\b", "-rf", ".hidden", "a//b", "a/b/c/d", "name:",
    ":tag", "na me", "n\x00ul", "line\nbreak", "\u202ertl", "x" * 97, "org/" + "y" * 97, "n:" + "t" * 97, "%2e%2e/x",
    "a..b", "ho st/org/name", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("typed", NO_NAMES)
@pytest.mark.fault(33)
@pytest.mark.fault(44)
@pytest.mark.finding("MDL001")
def test_anything_else_is_refused_with_the_reason(typed: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        ModelName.parse(typed)
    assert refusal.value.code == "MDL001"


@pytest.mark.fault(33)
@given(st.text(max_size=60))
def test_no_accepted_name_leaves_the_models_folder(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except InvalidRequest:
        return
    root = Path("/models/mlx")
    path = root / name.folder
    assert path.parent == root
    assert path.name not in {"", ".", ".."}
    assert not path.name.startswith((".", "-"))


@given(st.from_regex(r"[a-z0-9][a-z0-9.\-]{0,8}", fullmatch=True).filter(lambda part: ".." not in part))
def test_the_canonical_form_parses_to_itself(part: str) -> None:
    for typed in (part, f"org/{part}", f"org/{part}:t1"):
        name = ModelName.parse(typed)
        assert ModelName.parse(str(name)) == name
        assert str(ModelName.parse(str(name))) == str(name)
        assert ModelName.from_folder(name.folder) == name


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "g" * 64, "sha256:" + "a" * 63, "md5:" + "a" * 64, "sha256:../" + "a" * 61]
)
def test_a_malformed_digest_never_becomes_a_path(digest: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid digest format"):
        parse_digest(digest)


def test_a_digest_is_read_in_both_spellings() -> None:
    assert parse_digest("sha256:" + "a" * 64) == parse_digest("sha256-" + "a" * 64) == "a" * 64


def test_every_entry_is_a_pair_of_valid_names() -> None:
    for short, full in load_catalogue().items():
        assert ModelName.parse(short).org is None, short
        target = ModelName.parse(full)
        assert target.org is not None or full == "smollm2:135m", full


def test_no_two_entries_are_one_name_and_none_stands_for_another_entry() -> None:
    entries = {ModelName.parse(short): ModelName.parse(full) for short, full in load_catalogue().items()}
    tables = tomllib.loads(files("ollmlx.model").joinpath("catalogue.toml").read_text(encoding="utf-8"))
    assert len(entries) == len(load_catalogue()) == sum(map(len, tables.values())) > 40
    assert not set(entries) & set(entries.values())
