"""The sources of settings: their order, their faults, and the report of every value with its origin."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from ollmlx.reload import reloadable
from ollmlx.settings import Settings
from ollmlx.settings.files import key_lines
from ollmlx.settings.load import InvalidSettings, LoadedSettings, load_settings
from ollmlx.settings.report import effective, toml_value
from ollmlx.text.quantities import FOREVER


def load(tmp_path: Path, toml: str = "", environ: Mapping[str, str] | None = None, **flags: object) -> LoadedSettings:
    if toml:
        (tmp_path / "ollmlx.toml").write_text(toml, encoding="utf-8")
        environ = {"OLLMLX_CONFIG": "ollmlx.toml", **(environ or {})}  # asked for: it may set everything
    overrides = {key.replace("__", "."): value for key, value in flags.items()}
    return load_settings(None, overrides, {"HOME": str(tmp_path), **(environ or {})}, tmp_path)


def refused(tmp_path: Path, toml: str = "", environ: Mapping[str, str] | None = None) -> InvalidSettings:
    with pytest.raises(InvalidSettings) as caught:
        load(tmp_path, toml, environ)
    return caught.value


def test_without_any_source_all_is_default(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.settings == Settings()
    assert (loaded.files, str(loaded.origin(("server", "host")))) == ((), "default")


def test_the_stronger_source_wins_and_the_weaker_is_remembered(tmp_path: Path) -> None:
    toml = '[server]\nhost = ":1"\n'
    ollama, own = {"OLLAMA_HOST": ":2"}, {"OLLMLX_SERVER__HOST": ":3"}
    assert load(tmp_path, toml).settings.server.host == ":1"
    assert load(tmp_path, toml, ollama).settings.server.host == ":2"
    assert load(tmp_path, toml, {**ollama, **own}).settings.server.host == ":3"
    loaded = load(tmp_path, toml, {**ollama, **own}, server__host=":4")
    assert loaded.settings.server.host == ":4"
    assert str(loaded.origin(("server", "host"))) == "command line"
    overridden = [str(shadowed.origin) for shadowed in loaded.shadowed]
    assert overridden == ["ollmlx.toml, line 2", "OLLAMA_HOST", "OLLMLX_SERVER__HOST"]


OLLAMA = [
    ("OLLAMA_KEEP_ALIVE", ' "-1" ', "runners", "keep_alive", FOREVER),
    ("OLLAMA_KEEP_ALIVE", "90", "runners", "keep_alive", 90.0),
    ("OLLAMA_LOAD_TIMEOUT", "0", "runners", "load_timeout", FOREVER),
    ("OLLAMA_LOAD_TIMEOUT", "-5m", "runners", "load_timeout", FOREVER),
    ("OLLAMA_LOAD_TIMEOUT", "90s", "runners", "load_timeout", 90.0),
    ("OLLAMA_NUM_PARALLEL", "4", "runners", "parallel", 4),
    ("OLLAMA_MAX_LOADED_MODELS", "2", "runners", "max_loaded_models", 2),
    ("OLLAMA_MAX_QUEUE", "7", "runners", "max_queue", 7),
    ("OLLAMA_CONTEXT_LENGTH", "8192", "runners", "context_length", 8192),
    ("OLLAMA_KV_CACHE_TYPE", "q8_0", "runners", "kv_cache_type", "q8_0"),
    ("OLLAMA_ORIGINS", "http://a, http://b", "server", "origins", ("http://a", "http://b")),
    ("OLLAMA_MODELS", "'/m'", "storage", "models", Path("/m")),
    ("OLLAMA_DEBUG", "1", "logging", "level", "debug"),
    ("OLLAMA_DEBUG", "0", "logging", "level", "info"),
    ("OLLAMA_HOST", "", "server", "host", "127.0.0.1:11434"),
    ("OLLMLX_SERVER__ORIGINS", "a,b", "server", "origins", ("a", "b")),
    ("OLLMLX_SERVER__ORIGINS", '["a"]', "server", "origins", ("a",)),
    ("OLLMLX_SERVER__DOCS", "false", "server", "docs", False),
    ("OLLMLX_MEMORY__LIMIT", "8GiB", "memory", "limit", 8 * 1024**3),
]


@pytest.mark.parametrize(("name", "text", "section", "key", "value"), OLLAMA)
def test_a_variable_is_read(tmp_path: Path, name: str, text: str, section: str, key: str, value: object) -> None:
    assert getattr(getattr(load(tmp_path, environ={name: text}).settings, section), key) == value


REMOVED_KEYS = [
    ("[runners]\nswap_wait = 1", {}, "[runners] swap_wait: this setting is gone: ", "(ollmlx.toml, line 2) CFG003"),
    ("[plugins.mlx]\nfloat32_share = 2", {}, "[plugins.mlx] float32_share: this", "(ollmlx.toml, line 2) CFG003"),
    ("", {"OLLMLX_MEMORY__HARD": "x"}, "[memory] hard: this setting is gone: ", "(OLLMLX_MEMORY__HARD) CFG003"),
]


@pytest.mark.parametrize(("toml", "environ", "begin", "end"), REMOVED_KEYS)
def test_a_key_of_an_earlier_version_is_a_warning_and_changes_nothing(
    tmp_path: Path, toml: str, environ: Mapping[str, str], begin: str, end: str
) -> None:
    loaded = load(tmp_path, toml, environ)
    (warning,) = map(str, loaded.warnings)
    assert warning.startswith(begin)
    assert warning.endswith(end)
    assert loaded.settings.runners == Settings().runners
    assert loaded.settings.memory == Settings().memory
    assert not loaded.settings.plugins.table("mlx")


def test_a_key_of_an_earlier_version_is_a_warning_beside_a_fault(tmp_path: Path) -> None:
    error = refused(tmp_path, "[runners]\nswap_wait = 1\nparallel = -1\n")
    assert [fault.code for fault in error.faults] == ["CFG004"]
    assert [notice.code for notice in error.sound.warnings] == ["CFG003"]


def test_settings_that_are_made_in_code_read_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLMLX_SERVER__HOST", ":3")
    monkeypatch.setenv("SERVER", '{"host": ":4"}')
    assert Settings().server.host == "127.0.0.1:11434"
    assert Settings.model_validate({"server": {"docs": False}}).server.host == "127.0.0.1:11434"


BAD_VARIABLES = [
    ("OLLMLX_SERVER__ORIGINS", "[1", "[server] origins: must be a list", "CFG004"),
    ("OLLMLX_MODELS__A", "{", '[models."a"]: must be a table', "CFG004"),
    ("OLLMLX_FOO__BAR", "1", "[foo]: unknown section", "CFG003"),
    ("OLLMLX_RUNNERZ__BAR", "1", "did you mean [runners]?", "CFG003"),
    ("OLLMLX_SERVER____HOST", "1", "write it OLLMLX_SECTION__KEY", "CFG003"),
]


@pytest.mark.parametrize(("name", "text", "problem", "code"), BAD_VARIABLES)
def test_a_variable_that_cannot_be_used_is_a_fault(
    tmp_path: Path, name: str, text: str, problem: str, code: str
) -> None:
    (fault,) = refused(tmp_path, environ={name: text}).faults
    assert problem in str(fault)
    assert str(fault).endswith(f"({name}) {code}")


def test_variables_reach_tables_of_models_and_plugins(tmp_path: Path) -> None:
    environ = {
        "OLLMLX_MODELS__SHORT__FROM": "org/long",
        "OLLMLX_MODELS__SHORT__PARAMETERS__SEED": "3",
        "OLLMLX_MODELS__OTHER": '{"pin": true}',
        "OLLMLX_ALIASES__X": "org/y",
        "OLLMLX_PLUGINS__MLX__THREADS": "4",
        "OLLMLX_PLUGINS__DISABLED": "hub, pypi",
    }
    loaded = load(tmp_path, environ=environ)
    settings = loaded.settings
    assert (settings.models["short"].from_, settings.models["other"].pin) == ("org/long", True)
    assert settings.aliases == {"x": "org/y"}
    assert settings.plugins.table("mlx") == {"threads": "4"}
    assert settings.plugins.disabled == ("hub", "pypi")
    assert str(loaded.origin(("models", "short", "from"))) == "OLLMLX_MODELS__SHORT__FROM"


def test_every_fault_of_every_source_is_reported_at_once(tmp_path: Path) -> None:
    environ = {"OLLAMA_NUM_PARALLEL": "x", "OLLMLX_SERVER__HOSTT": "y"}
    error = refused(tmp_path, '[server]\nhosst = "x"\n\n[runners]\nparallel = -1\n', environ)
    assert [str(fault) for fault in error.faults] == [
        "[server] hosst: unknown key; did you mean 'host'? (ollmlx.toml, line 2) CFG003",
        "[runners] parallel: must be at least 0, not -1 (ollmlx.toml, line 5) CFG004",
        "[runners] parallel: must be a whole number, not 'x' (OLLAMA_NUM_PARALLEL) CFG004",
        "[server] hostt: unknown key; did you mean 'host'? (OLLMLX_SERVER__HOSTT) CFG003",
    ]
    assert error.message.startswith("4 faults in the settings:")


@pytest.mark.parametrize("key", ["load_timeout", "request_timeout", "hang_timeout"])
def test_a_limit_that_leaves_no_time_at_all_is_a_fault(tmp_path: Path, key: str) -> None:
    with pytest.raises(InvalidSettings, match=rf"\[runners\] {key}: must be more than 0, not '0s'"):
        load(tmp_path, f'[runners]\n{key} = "0s"\n')


UNREADABLE = [
    (b"a = ", "not valid TOML: invalid value at column 5 (ollmlx.toml, line 1) CFG001"),
    (b"\n[x", "expected ']' at the end of a table declaration at column 3 (ollmlx.toml, line 2) CFG001"),
    (b"\xef\xbb\xbfa=1", "saved as UTF-8 with a byte order mark; save it as plain UTF-8"),
    ("[a]".encode("utf-16"), "saved as UTF-16; save it as plain UTF-8"),
    (b'a=1\nb="\xff"', "the file is not UTF-8 at column 4 (ollmlx.toml, line 2) CFG001"),
]


@pytest.mark.parametrize(("data", "problem"), UNREADABLE)
def test_a_file_that_cannot_be_read_is_a_fault_with_its_place(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "ollmlx.toml").write_bytes(data)
    assert problem in refused(tmp_path).message
    for path, problem in ((tmp_path, "this is a folder"), (tmp_path / "none.toml", "there is no such settings file")):
        with pytest.raises(InvalidSettings, match=problem):
            load_settings(path, {}, {}, tmp_path)


def test_secrets_are_in_no_fault_and_no_report(tmp_path: Path) -> None:
    for faulty in (
        '[security]\napi_keys = "very-secret"\n',
        '[security.keys]\nanna = "very-secret"\n',
        '[security.keys.anna]\nkey = ["very-secret"]\n',
        '[security.keys.anna]\nkey = "very-secret"\nsha256 = "very-secret"\n',
    ):
        assert "very-secret" not in refused(tmp_path, faulty).message
    named = load(tmp_path, '[security.keys.anna]\nkey = "very-secret"\n')
    assert "very-secret" not in str(effective(named)) + repr(named.settings)
    change = reloadable(load(tmp_path).settings, named.settings)
    assert "very-secret" not in " ".join(map(str, change.applied))
    assert named.settings.security.owned_caches
    assert named.settings.cache_limit == 0
    loaded = load(tmp_path, '[security]\napi_keys = ["sk-very-secret"]\n[plugins.mlx]\ntoken = "very-secret"\n')
    assert "very-secret" not in str(effective(loaded))
    assert "very-secret" not in repr(loaded.settings.security)


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("[security.keys.anna]\nconcurrent = 1\n", "[security.keys.anna]: either `key` or `sha256` is needed"),
        ('[security.keys.anna]\nkey = "a"\nmodel = ["x"]\n', "did you mean 'models'?"),
        ('[security.keys.anna]\nkey = "a"\nconcurrent = -1\n', "[security.keys.anna] concurrent: must be"),
        ('[security.keys.anna]\nkey = "a"\nmodels = ["q*", "a b"]\n', "[security.keys.anna] models: "),
        ('[security.keys."10.0.0.1"]\nkey = "a"\n', "the name of a key is a letter"),
        ('[security.keys.anna]\nsha256 = "abc"\n', "[security.keys.anna] sha256: the value is not usable"),
    ],
)
def test_a_fault_of_a_named_key_names_it(tmp_path: Path, toml: str, problem: str) -> None:
    assert problem in refused(tmp_path, toml).message


def test_a_named_key_may_come_from_variables(tmp_path: Path) -> None:
    environ = {"OLLMLX_SECURITY__KEYS__ANNA__KEY": "k", "OLLMLX_SECURITY__KEYS__ANNA__MODELS": "a,b"}
    found = load(tmp_path, "", environ).settings.security.keys["anna"]
    assert (found.key, found.models) == ("k", ("a", "b"))


def test_every_key_is_reported_with_its_origin(tmp_path: Path) -> None:
    loaded = load(tmp_path, '[runners]\nkeep_alive = "5m"\n[models."a:b"]\npin = true\n', {"OLLAMA_KEEP_ALIVE": "-1"})
    reported = {value.path: value.as_json() for value in effective(loaded)}
    assert reported["runners", "keep_alive"] == {
        "key": "runners.keep_alive",
        "value": "-1",
        "origin": "ollama",
        "source": "OLLAMA_KEEP_ALIVE",
        "overrides": [{"value": "5m", "source": "ollmlx.toml, line 2"}],
    }
    assert reported["models", "a:b", "pin"]["source"] == "ollmlx.toml, line 4"
    assert reported["server", "host"]["source"] == "default"


def test_lines_are_found_in_any_toml() -> None:
    text = '# c\n[a."b c"]\nx = [\n 1,\n]\ny.z = 2\n\n[d]\ne = """\nq = 1\n"""\nf = {g = 1}\n'
    assert key_lines(text) == {
        ("a", "b c"): 2,
        ("a", "b c", "x"): 3,
        ("a", "b c", "y"): 6,
        ("a", "b c", "y", "z"): 6,
        ("d",): 8,
        ("d", "e"): 9,
        ("d", "f"): 12,
        ("d", "f", "g"): 12,
    }


def test_a_reload_applies_the_changes_that_need_no_restart(tmp_path: Path) -> None:
    old = load(tmp_path, '[runners]\nkeep_alive = "5m"\n').settings
    new = load(
        tmp_path,
        '[runners]\nkeep_alive = "1m"\nmax_queue = 3\n[server]\nhost = ":9"\n[aliases]\na = "b"\n'
        '[security]\napi_keys = ["sk-very-secret"]\n',
    ).settings
    change = reloadable(old, new)
    now = {("runners", "keep_alive"), ("aliases", "a"), ("security", "api_keys")}
    assert {item.path for item in change.applied} == now
    assert {item.path for item in change.restart} == {("runners", "max_queue"), ("server", "host")}
    assert change.settings.runners.keep_alive == 60
    assert change.settings.server.host == old.server.host
    assert "very-secret" not in " ".join(map(str, change.applied))
    assert reloadable(new, new).applied == ()


def test_plugins_are_found_from_the_folder_of_the_file_that_names_them(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "mine.toml"
    file.parent.mkdir()
    file.write_text('[plugins]\npaths = ["a.py", "/b/c.py", "~/d"]\n', encoding="utf-8")
    found = load_settings(file, {}, {"HOME": str(tmp_path)}, tmp_path).settings.plugins.paths
    assert found == (file.parent / "a.py", Path("/b/c.py"), Path("~/d"))
    given = load(tmp_path, "", {"OLLMLX_PLUGINS__PATHS": '["a.py"]'}).settings.plugins.paths
    assert given == (Path("a.py"),)


def test_the_first_settings_file_of_four_places_is_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    user = home / ".config/ollmlx/ollmlx.toml"
    elsewhere = tmp_path / "xdg/ollmlx/ollmlx.toml"
    named, asked, here = tmp_path / "named.toml", tmp_path / "asked.toml", tmp_path / "ollmlx.toml"
    for number, file in enumerate((user, elsewhere, here, named, asked), 1):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"[runners]\nmax_queue = {number}", encoding="utf-8")

    def queue(config: Path | None = None, cwd: Path = tmp_path, **environ: str) -> int:
        return load_settings(config, None, {"HOME": str(home), **environ}, cwd).settings.runners.max_queue

    empty = tmp_path / "empty"
    empty.mkdir()
    assert queue(asked, OLLMLX_CONFIG=str(named)) == 5
    assert queue(OLLMLX_CONFIG=str(named)) == 4
    assert queue() == 3
    assert queue(cwd=empty, XDG_CONFIG_HOME=str(tmp_path / "xdg")) == 2
    assert queue(cwd=empty) == 1


def test_a_table_is_written_as_toml_reads_it() -> None:
    table = {"org/x:y": {"rate": 5, "cache": False}, "say": ["ä\n", 'a "b"'], "empty": {}}
    assert tomllib.loads(f"value = {toml_value(table)}") == {"value": table}
