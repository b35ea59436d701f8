"""`ollmlx config`: show, check and init."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path

import pytest

from ollmlx.cli.main import main
from ollmlx.settings import Settings

PLUGIN = """
from ollmlx import hookimpl
from pydantic import BaseModel, SecretStr

class Own(BaseModel):
    door: SecretStr
    place: str

@hookimpl
def register_settings(register):
    register(Own)
"""


pytestmark = pytest.mark.usefixtures("home")


def test_show_prints_every_value_with_its_origin_and_the_values_it_overrides(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "ollmlx.toml").write_text('[runners]\nkeep_alive = "9m"\n[models."a:1"]\npin = true', encoding="utf-8")
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", "3m")
    monkeypatch.setenv("OLLMLX_MEMORY__SHARE", "0.5")
    assert main(["--host", "1.2.3.4:5", "config", "show"]) == 0
    lines = {line.partition(" = ")[0]: " ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert lines["host"] == 'host = "1.2.3.4:5" # command line'
    assert lines["keep_alive"] == 'keep_alive = "3m" # OLLAMA_KEEP_ALIVE; overrides ollmlx.toml, line 2'
    assert lines["share"] == "share = 0.5 # OLLMLX_MEMORY__SHARE"
    assert lines["max_body"] == 'max_body = "100MiB" # default'
    assert lines['"a:1".pin'] == '"a:1".pin = true # ollmlx.toml, line 4'


def test_show_prints_toml_and_changed_leaves_out_defaults(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "ollmlx.toml").write_text('[memory]\nlimit = "8GiB"\n[aliases]\n"a:b" = "c"', encoding="utf-8")
    assert main(["config", "show", "--changed"]) == 0
    assert tomllib.loads(capsys.readouterr().out) == {"memory": {"limit": "8GiB"}, "aliases": {"a:b": "c"}}
    assert main(["config", "show"]) == 0
    whole = tomllib.loads(capsys.readouterr().out)
    assert Settings.model_validate(whole).memory.limit == 8 * 1024**3


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_secrets_are_hidden_by_name_by_type_and_inside_of_texts(
    home: Path, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    (home / "odd.py").write_text(PLUGIN, encoding="utf-8")
    (home / "ollmlx.toml").write_text(
        f'[security]\napi_keys = ["hush-1-{"k" * 30}"]\n'
        f'[plugins]\npaths = ["{home}/odd.py"]\n'
        '[plugins.odd]\ndoor = "hush-2"\nplace = "https://me:hush-3@example.org/x"\n'
        '[plugins.hub]\ntoken = "hush-4"',
        encoding="utf-8",
    )
    assert main(["config", "show", "--config", "ollmlx.toml", *form]) == 0
    reported = capsys.readouterr()
    assert "hush" not in reported.out + reported.err
    assert reported.out.count("********") == 4
    assert "example.org/x" in reported.out


def test_check_prints_every_fault_and_exits_with_1(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check"]) == 0
    assert "no settings file" in capsys.readouterr().out
    (home / "ollmlx.toml").write_text("[server]\nhosst = 1\n[runners]\nparallel = 'x'", encoding="utf-8")
    assert main(["config", "check"]) == 1
    reported = capsys.readouterr().err
    assert "did you mean 'host'? (ollmlx.toml, line 2) CFG003" in reported
    assert "(ollmlx.toml, line 4) CFG004" in reported
    assert main(["config", "check", "--json"]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [problem["code"] for problem in problems] == ["CFG003", "CFG004"]
    assert problems[0]["source"] == "ollmlx.toml, line 2"


def test_check_warns_of_a_key_of_an_earlier_version(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "ollmlx.toml").write_text("[runners]\nswap_wait = 1", encoding="utf-8")
    assert main(["config", "check"]) == 0
    reported = capsys.readouterr()
    assert "warning: [runners] swap_wait: this setting is gone" in reported.err
    assert "the settings are usable" in reported.out
    assert main(["config", "check", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["ok"], printed["warnings"][0]["code"]) == (True, "CFG003")


def test_init_writes_a_private_file_that_changes_nothing_and_never_over_another(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "init"]) == 0
    file = home / "ollmlx.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Settings.model_validate(tomllib.loads(file.read_text(encoding="utf-8"))) == Settings()
    assert '#host = "127.0.0.1:11434"' in file.read_text(encoding="utf-8")
    file.write_text("mine", encoding="utf-8")
    assert main(["config", "init"]) == 1
    assert "hint: ollmlx config init --force ollmlx.toml" in capsys.readouterr().err
    assert file.read_text(encoding="utf-8") == "mine"
    assert main(["config", "init", "--force", "ollmlx.toml"]) == 0
    assert main(["config", "check"]) == 0


def test_init_in_a_folder_that_is_not_there_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "init", "nowhere/ollmlx.toml"]) == 1
    assert "cannot write nowhere/ollmlx.toml: No such file or directory" in capsys.readouterr().err
