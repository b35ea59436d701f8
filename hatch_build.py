"""Adds files to distributions: the commit that they are built from, and what `make dist` writes before it builds."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMMIT = "build/COMMIT"
MAN = "build/ollmlx.1"
BOM = "build/ollmlx-page.cdx.json"  # of the packages in the page's files


class MadeFiles(BuildHookInterface[Any]):
    """A source distribution carries the files, so a wheel that is built from it has them, too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        git = shutil.which("git") if (root / ".git").exists() else None
        if git is not None:  # without it, or in a checkout of another user, the commit stays unknown
            command = [git, "rev-parse", "--short=10", "HEAD"]
            found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
            (root / COMMIT).parent.mkdir(exist_ok=True)
            (root / COMMIT).write_text(found.stdout if found.returncode == 0 else "unknown", "ascii")
        targets = {COMMIT: "ollmlx/COMMIT", MAN: "share/man/man1/ollmlx.1", BOM: ""}
        for file, target in targets.items():
            if not (root / file).is_file():
                continue
            if self.target_name == "sdist":
                build_data["force_include"][str(root / file)] = file
            elif file == BOM:
                build_data["sbom_files"].append(file)
            else:
                kind = "shared_data" if target.startswith("share/") else "force_include"
                build_data[kind][str(root / file)] = target
