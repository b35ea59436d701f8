"""The settings on paper are the settings in the code."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import BaseModel

from ollmlx.reload import RELOADABLE
from ollmlx.settings.model import ClusterSettings, KeySettings, ModelSettings, Settings
from ollmlx.settings.report import reference, toml_value, written_default

ROOT = Path(__file__).parents[2]
REGENERATE = (
    "run: python -c 'from ollmlx.settings.report import reference; print(reference(), end=str())' > ollmlx.toml"
)
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
SECTIONS: dict[str, type[BaseModel]] = {
    f"[{name}]": field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
} | {'[models."NAME"]': ModelSettings, '[models."NAME".cluster]': ClusterSettings, "[security.keys.NAME]": KeySettings}


def test_the_reference_file_is_what_the_settings_write() -> None:
    committed = (ROOT / "ollmlx.toml").read_text(encoding="utf-8")
    assert committed == reference(), REGENERATE


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_is_on_the_page_with_its_default_and_its_meaning(title: str) -> None:
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]*)\| (.*) \|$", section, re.MULTILINE)
    told = {key: (default.strip(), meaning) for key, default, meaning in rows}
    model = SECTIONS[title]
    assert told == {
        field.alias or name: (_default(model, name), field.description) for name, field in model.model_fields.items()
    }


def _default(model: type[BaseModel], name: str) -> str:
    """As the page shows it: nothing where the default is none."""
    default = written_default(model, name)
    return "" if default is None else f"`{toml_value(default)}`"


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
def test_every_example_is_valid(block: str) -> None:
    Settings.model_validate(tomllib.loads(block))


LIMITS = re.findall(r"^\| [^|]+ \| ([^|]+) \| `([\w.]+)\.(\w+)` \|$", PAGE, re.MULTILINE)
UNITS = {"s": 1, "/s": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "": 1}


@pytest.mark.parametrize(("told", "module", "name"), LIMITS, ids=[name for _, _, name in LIMITS])
def test_every_fixed_limit_is_what_the_code_has(told: str, module: str, name: str) -> None:
    number, unit = re.fullmatch(r"(\d+) ?(\S*)", told).groups()  # type: ignore[union-attr]
    assert getattr(import_module(module), name) in (int(number) * UNITS[unit], int(number) * UNITS[unit] - 1)


def test_the_fixed_limits_are_there() -> None:
    assert len(LIMITS) == len(set(LIMITS)) > 30


def test_what_sighup_takes_over_is_named() -> None:
    told = " ".join(PAGE.partition("SIGHUP makes")[2].partition("\n\n")[0].split())
    for path in RELOADABLE:
        assert f"`[{path[0]}" in told
        assert path[-1] in told
    named = set(re.findall(r"`(?:\[(?:\w+)\] )?(\w+)`", told))
    assert named == {path[1] for path in RELOADABLE if len(path) > 1}
