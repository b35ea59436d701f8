"""docs/architecture.md names every room, and every file it mentions exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = PAGE.partition("## Rooms")[2].partition("\n## ")[0]


def test_the_table_names_every_room() -> None:
    packages = [*ROOT.glob("src/ollmlx/**/__init__.py"), *ROOT.glob("plugins/*/__init__.py")]
    rooms = {str(package.parent.relative_to(ROOT)).removeprefix("src/") for package in packages} - {"ollmlx"}
    named = {name.rstrip("/") for name in re.findall(r"`((?:ollmlx|plugins)/[\w/]+)`", ROOMS)}
    assert sorted(rooms - named) == []
    assert sorted(name for name in named - rooms if not (ROOT / "src" / f"{name}.py").is_file()) == []


def test_the_files_it_names_exist() -> None:
    missing = [
        name
        for name in re.findall(r"`([\w/]+\.py)`", PAGE)
        if not [*ROOT.glob(f"src/**/{name}"), *ROOT.glob(f"plugins/**/{name}"), *ROOT.glob(name)]
    ]
    assert missing == []
