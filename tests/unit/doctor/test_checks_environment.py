"""Variables whose name is nearly right, and values that surely mean something else; and those that are right."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.unit.doctor.contexts import context_of, settle

from ollmlx.doctor.checks.environment import names, values
from ollmlx.doctor.context import CheckContext
from ollmlx.errors.findings import Finding
from ollmlx.settings.keys import keys_of, sections, variable
from ollmlx.settings.load import OLLAMA_VARIABLES


def found(tmp_path: Path, environ: Mapping[str, str]) -> list[Finding]:
    settle(tmp_path)
    context = context_of(tmp_path, environ)
    return [one for check in (names, values) for one in check.function(context)]  # type: ignore[union-attr]


def after(commands: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables after the commands were typed in a shell."""
    script = "\n".join([*(one for one in commands if not one.startswith("ollmlx ")), "env -0"])
    typed = subprocess.run(["bash", "-c", script], env=dict(environ), capture_output=True, text=True, check=True)
    pairs = (pair.partition("=") for pair in typed.stdout.split("\0") if pair)
    return {name: value for name, _, value in pairs if name not in ("PWD", "OLDPWD", "SHLVL", "_")}


WRONG = [
    ({"OLLAMA_MODEL": "/m"}, "OLLAMA_MODELS"),
    ({"OLLAMA_MODELS_DIR": "/m"}, "OLLAMA_MODELS"),
    ({"OLLAMA_HOSTS": "127.0.0.1"}, "OLLAMA_HOST"),
    ({"OLLAMAHOST": "127.0.0.1"}, "OLLAMA_HOST"),
    ({"OLLMA_HOST_": "x"}, "OLLAMA_HOST"),
    ({"OLD_HOST": "x"}, None),
    ({"OLLAMA_KEEPALIVE": "5m"}, "OLLAMA_KEEP_ALIVE"),
    ({"OLLAMA_NUM_PARALEL": "2"}, "OLLAMA_NUM_PARALLEL"),
    ({"OLLAMA_PARALLEL": "2"}, "OLLAMA_NUM_PARALLEL"),
    ({"OLLAMA_MAX_LOADED_MODEL": "2"}, "OLLAMA_MAX_LOADED_MODELS"),
    ({"OLLAMA_CONTEXT_LENGHT": "4096"}, "OLLAMA_CONTEXT_LENGTH"),
    ({"OLLAMA_ORIGIN": "*"}, "OLLAMA_ORIGINS"),
    ({"ollama_host": "127.0.0.1"}, "OLLAMA_HOST"),
    ({"OLLMLX_SERVER_HOST": "127.0.0.1"}, "OLLMLX_SERVER__HOST"),
    ({"OLLMLX_RUNNERS_KEEP_ALIVE": "5m"}, "OLLMLX_RUNNERS__KEEP_ALIVE"),
    ({"OLLMLX_HOST": "127.0.0.1"}, "OLLMLX_SERVER__HOST"),
    ({"OLLMLX_KEEP_ALIVE": "5m"}, "OLLMLX_RUNNERS__KEEP_ALIVE"),
    ({"OLLMLX_CONFG": "/o.toml"}, "OLLMLX_CONFIG"),
]


@pytest.mark.parametrize(("environ", "meant"), WRONG)
def test_a_name_that_is_nearly_right_is_named_with_the_right_one(
    tmp_path: Path, environ: dict[str, str], meant: str | None
) -> None:
    (_, value), reported = next(iter(environ.items())), found(tmp_path, environ)
    if meant is None:
        assert reported == []
        return
    assert [one.code for one in reported] == ["CFG003"]
    assert f"did you mean {meant}?" in reported[0].title
    assert after(reported[0].commands, environ) == {meant: value}


MEANT_OTHERWISE = [
    ({"HF_TOKEN": "hf_abc\r"}, "carriage return", {"HF_TOKEN": "hf_abc"}),
    ({"HF_TOKEN": '"hf_abc"'}, "quotes", {"HF_TOKEN": "hf_abc"}),
    ({"OLLAMA_API_KEY": "key "}, "spaces", {"OLLAMA_API_KEY": "key"}),
    ({"HF_ENDPOINT": "'https://x'"}, "quotes", {"HF_ENDPOINT": "https://x"}),
    ({"OLLAMA_KEEP_ALIVE": "5"}, "means 5s", {"OLLAMA_KEEP_ALIVE": "5m"}),
    ({"OLLAMA_LOAD_TIMEOUT": "10"}, "means 10s", {"OLLAMA_LOAD_TIMEOUT": "10m"}),
    ({"OLLAMA_HOST": "127.0.0.1:5432"}, "PostgreSQL", {"OLLAMA_HOST": "127.0.0.1:11434"}),
    ({"OLLAMA_HOST": ":6379"}, "Redis", {"OLLAMA_HOST": "127.0.0.1:11434"}),
    ({"OLLAMA_MODELS": "models"}, "is relative", None),
    ({"OLLMLX_STORAGE__MODELS": '"/m"'}, "quotes", {"OLLMLX_STORAGE__MODELS": "/m"}),
]


@pytest.mark.parametrize(("environ", "reason", "mended"), MEANT_OTHERWISE)
def test_a_value_that_surely_means_something_else_is_named_and_mended(
    tmp_path: Path, environ: dict[str, str], reason: str, mended: dict[str, str] | None
) -> None:
    (reported,) = found(tmp_path, environ)
    assert reported.code == "CFG004"
    assert reason in reported.title
    path = {"PATH": "/usr/bin:/bin"}
    typed = {name: value for name, value in after(reported.commands, {**environ, **path}).items() if name != "PATH"}
    assert typed == (mended or {"OLLAMA_MODELS": shlex.quote(str(Path.cwd() / "models"))})
    assert found(tmp_path, typed) == []


RIGHT: list[dict[str, str]] = [
    {},
    {"OLLAMA_HOST": "0.0.0.0:11434"},
    {"OLLAMA_HOST": '"127.0.0.1:11500"'},
    {"OLLAMA_FLASH_ATTENTION": "1", "OLLAMA_NOPRUNE": "1"},
    {"OLLAMA_KEEP_ALIVE": "-1"},
    {"OLLAMA_KEEP_ALIVE": "0"},
    {"OLLAMA_KEEP_ALIVE": "300"},
    {"OLLAMA_KEEP_ALIVE": "30s"},
    {"OLLAMA_MODELS": "/big/models"},
    {"OLLAMA_MODELS": "~/models"},
    {"OLLMLX_CONFIG": "/x/o.toml"},
    {"OLLMLX_SERVER__HOST": "127.0.0.1:8080"},
    {"HF_TOKEN": "hf_abc", "OLLAMA_API_KEY": "k" * 40},
    {"OLLAMA_BASE_URL": "http://x:11434"},
    {"OLLAMA_MY_OWN_THING": "x"},
    dict.fromkeys(OLLAMA_VARIABLES, ""),
]


@pytest.mark.parametrize("environ", RIGHT)
def test_variables_that_are_right_are_not_mentioned(tmp_path: Path, environ: dict[str, str]) -> None:
    assert found(tmp_path, environ) == []


def told_of(context: CheckContext) -> list[Finding]:
    return list(names.function(context))  # type: ignore[arg-type] # it is no coroutine


MISSES: dict[str, Callable[[str], str]] = {
    "a letter less": lambda name: name[:9] + name[10:],
    "a letter twice": lambda name: name[:9] + name[9] + name[9:],
    "letters changed round": lambda name: name[:-2] + name[-1] + name[-2],
    "one underscore": lambda name: name.replace("__", "_"),
    "three underscores": lambda name: name.replace("__", "___"),
    "small letters": str.lower,
    "hyphens": lambda name: name.replace("_", "-"),
    "a plural": lambda name: name.removesuffix("S") if name.endswith("S") else f"{name}S",
    "a misspelt product": lambda name: name.replace("OLLMLX", "OLLMX").replace("OLLAMA", "OLAMA"),
    "the other product": lambda name: f"{'OLLMLX' if name.startswith('OLLAMA') else 'OLLAMA'}{name[6:]}",
}
EVERY = [*(variable((section, key)) for section, model in sections() for key in keys_of(model)), *OLLAMA_VARIABLES]
OF_OTHERS = ["LLAMA_ARG_HOST", "OLDPWD", "OMP_NUM_THREADS", "OLLAMA_FLASH_ATTENTION", "OPENAI_API_KEY"]


@pytest.mark.parametrize("miss", MISSES)
def test_every_name_that_is_nearly_right_is_told(miss: str) -> None:
    silent = []
    for name in EVERY:
        wrong = MISSES[miss](name)
        context = CheckContext(environ={wrong: "1"})
        told = wrong in EVERY or told_of(context) or (wrong.startswith("OLLMLX_") and "__" in wrong)
        silent += [] if told else [wrong]
    assert silent == []


@pytest.mark.parametrize("name", OF_OTHERS)
def test_names_of_others_are_left_alone(name: str) -> None:
    assert told_of(CheckContext(environ={name: "1"})) == []
