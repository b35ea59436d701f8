"""Tables are added to a settings file and removed again, and nothing else of it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ollmlx.errors import ConfigError, Conflict, NotFound
from ollmlx.settings.edit import EditedFile
from ollmlx.settings.trust import TrustedFiles

TABLE = ("security", "keys", "anna")
OWN = '# mine\n[server]\nhost = "0.0.0.0"  # all\n\n[security.keys.ben]\nkey = "b"\n\n[aliases]\nx = "y"\n'


def edited(home: Path, config: Path | None = None) -> EditedFile:
    return EditedFile(config, {"HOME": str(home)}, home)


def test_a_table_is_added_to_a_new_private_file_and_removed_again(tmp_path: Path) -> None:
    edited(tmp_path).add(TABLE, {"sha256": "00", "models": ["a", 'b"c'], "concurrent": 2})
    file = tmp_path / ".config" / "ollmlx" / "ollmlx.toml"
    assert file.read_text() == '[security.keys.anna]\nsha256 = "00"\nmodels = ["a", "b\\"c"]\nconcurrent = 2\n'
    assert file.stat().st_mode & 0o077 == 0
    edited(tmp_path).remove(TABLE)
    assert file.read_text() == ""


@pytest.mark.parametrize("name", ["anna", "ben"])
def test_everything_else_stays(tmp_path: Path, name: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    if name == "anna":
        edited(tmp_path, file).add(TABLE, {"sha256": "00"})
        assert file.read_text().startswith(OWN)
    edited(tmp_path, file).remove(("security", "keys", name))
    assert (
        file.read_text()
        == {
            "anna": OWN + "\n",
            "ben": OWN.replace('[security.keys.ben]\nkey = "b"\n\n', ""),
        }[name]
    )


def test_a_trusted_file_stays_trusted(tmp_path: Path) -> None:
    file = tmp_path / "ollmlx.toml"
    file.write_text(OWN)
    file.chmod(0o600)
    trusted = TrustedFiles({"HOME": str(tmp_path)})
    trusted.add(file)
    edited(tmp_path).add(TABLE, {"sha256": "00"})
    assert trusted.has(file, file.read_bytes())


@pytest.mark.parametrize(
    ("text", "act", "error"),
    [
        ('[security.keys.anna]\nkey = "a"\n', "add", Conflict),
        ('[security]\nkeys = { anna = { key = "a" } }\n', "add", Conflict),
        ('[security]\nkeys = { anna = { key = "a" } }\n', "remove", NotFound),
        ('security = { api_keys = ["a"] }\n', "add", Conflict),
        ("", "remove", NotFound),
        ("[server\n", "add", ConfigError),
    ],
)
def test_a_file_that_cannot_be_edited_stays_as_it_is(
    tmp_path: Path, text: str, act: str, error: type[Exception]
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    one = edited(tmp_path, file)
    with pytest.raises(error):
        one.add(TABLE, {"sha256": "00"}) if act == "add" else one.remove(TABLE)
    assert file.read_text() == text
