from __future__ import annotations

import pytest

from ollmlx.errors import ConfigError
from ollmlx.model.catalogue import load_catalogue, read_catalogue
from ollmlx.model.names import ModelName


def test_every_entry_is_a_pair_of_valid_names() -> None:
    for short, full in load_catalogue().items():
        assert ModelName.parse(short).org is None, short
        target = ModelName.parse(full)
        assert target.org is not None or full == "smollm2:135m", full


def test_no_two_entries_are_one_name_in_different_spellings() -> None:
    names = [ModelName.parse(short) for short in load_catalogue()]
    assert len(set(names)) == len(names) > 40


def test_no_entry_stands_for_another_entry() -> None:
    entries = {ModelName.parse(short): ModelName.parse(full) for short, full in load_catalogue().items()}
    assert not [name for name, target in entries.items() if target in entries]


def test_the_well_known_names_are_there() -> None:
    catalogue = load_catalogue()
    assert catalogue["llama3.2:3b"] == "mlx-community/Llama-3.2-3B-Instruct-4bit"
    assert catalogue["smollm2"] == "smollm2:135m"


@pytest.mark.parametrize(
    "text",
    ["not toml at all =", 'top = "level"', "[a]\nx = 3", '[a]\nx = "one"\n[b]\nx = "two"'],
)
def test_a_malformed_catalogue_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="catalogue"):
        read_catalogue(text)
