"""The documentation as a site (`make docs`), of the files of the repository. A link that leads nowhere fails.

python -m release.site FOLDER     writes FOLDER/site
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = (
    "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "ollmlx.toml", "docs/*.md", "docs/images/*", "diagnostics/*.md",
    "plugins/README.md", "plugins/*/diagnostics/*.md",
)  # fmt: skip


def build_site(folder: Path) -> Path:
    """Copy the pages to FOLDER/pages and make FOLDER/site from them. Raises CalledProcessError for a dead link."""
    shutil.rmtree(folder, ignore_errors=True)
    for page in (page for pattern in PAGES for page in ROOT.glob(pattern)):
        copy = folder / "pages" / page.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, copy)
    settings = shutil.copy(ROOT / "docs/zensical.toml", folder)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "-f", settings], check=True)
    return folder / "site"


if __name__ == "__main__":
    build_site(Path(sys.argv[1]).resolve())
