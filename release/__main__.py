"""Makes the files of a release (`make dist`). Versions and hashes come from the package index.

python -m release page     build/ollmlx-page.cdx.json, which the wheel gets: before it is built
python -m release dist     beside the wheel: bill of materials, Homebrew's formula, Dockerfiles with their packages
"""

from __future__ import annotations

import sys

from ollmlx import __version__
from release.container import write_images
from release.formula import write_formula
from release.lock import ROOT
from release.sbom import write_bom, write_page_bom


def main(step: str) -> None:
    if step == "page":
        (ROOT / "build").mkdir(exist_ok=True)
        write_page_bom(ROOT / "build/ollmlx-page.cdx.json", __version__)
        return
    folder = ROOT / "dist"
    wheel = folder / f"ollmlx-{__version__}-py3-none-any.whl"
    write_bom(folder / f"ollmlx-{__version__}.cdx.json", __version__)
    write_formula(wheel, folder / "ollmlx.rb")
    write_images(wheel, folder)


if __name__ == "__main__":
    main(sys.argv[1])
