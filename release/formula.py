"""The formula for Homebrew: ollmlx and each package that it needs on Apple silicon, as wheels with their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Final

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import parse_wheel_filename

from release.lock import LockedPackage, lock

PYTHON: Final = (3, 13)
OLDEST_MACOS: Final = (14, 0)
"""Sonoma: the oldest macOS for which MLX has wheels."""
MACOS: Final = {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64", "os_name": "posix"}
DOWNLOADS: Final = "https://files.pythonhosted.org/packages/py3/o/ollmlx"

FORMULA: Final = Template("""\
class Ollmlx < Formula
  include Language::Python::Virtualenv

  desc "Ollama-compatible model server for MLX"
  homepage "https://pypi.org/project/ollmlx/"
  url "$url", using: :nounzip
  sha256 "$sha256"
  license all_of: ["Apache-2.0", "BSD-3-Clause", "MIT"]

  depends_on arch: :arm64
  depends_on macos: :sonoma
  depends_on "python@$python"

$resources
  def install
    venv = virtualenv_create(libexec, "python$python")
    # Wheels stay as they are: nothing is compiled.
    resources.each do |wheel|
      wheel.stage { venv.pip_install Pathname.pwd.glob("*.whl").first }
    end
    venv.pip_install_and_link buildpath.glob("*.whl").first
    generate_completions_from_executable(bin/"ollmlx", "completion")
  end

  service do
    run [opt_bin/"ollmlx", "serve"]
    keep_alive true
    log_path var/"log/ollmlx.log"
    error_log_path var/"log/ollmlx.log"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/ollmlx --version")
  end
end
""")
RESOURCE: Final = Template("""\
  resource "$name" do
    url "$url", using: :nounzip
    sha256 "$sha256"
  end
""")


def write_formula(wheel: Path, file: Path) -> None:
    """Write the formula that installs a wheel of ollmlx, once the wheel is on the package index."""
    dotted = ".".join(map(str, PYTHON))
    file.write_text(formula(wheel, lock(python=dotted)), "utf-8")


def formula(wheel: Path, locked: Iterable[LockedPackage]) -> str:
    """Return the formula's text. Raises ValueError for a package without a wheel for this Python and macOS."""
    ranks = {tag: rank for rank, tag in enumerate(_tags())}
    chosen = {
        package.name: best_wheel(package, ranks)
        for package in locked
        if not package.marker or Marker(package.marker).evaluate(MACOS)
    }
    return FORMULA.substitute(
        url=f"{DOWNLOADS}/{wheel.name}",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        python=".".join(map(str, PYTHON)),
        resources="\n".join(
            RESOURCE.substitute(name=name, url=url, sha256=sha256) for name, (url, sha256) in sorted(chosen.items())
        ),
    )


def best_wheel(package: LockedPackage, ranks: dict[Tag, int]) -> tuple[str, str]:
    """Return the address and the hash of the wheel that pip would choose."""
    fitting = []
    for url, sha256 in package.wheels.items():
        tags = parse_wheel_filename(url.rpartition("/")[2])[3]
        fitting += [(ranks[tag], url, sha256) for tag in tags if tag in ranks]
    if not fitting:
        raise ValueError(f"{package.name} {package.version} has no wheel for macOS {OLDEST_MACOS} and Python {PYTHON}")
    return min(fitting)[1:]


def _tags() -> list[Tag]:
    """Return what Homebrew's Python takes on the oldest macOS, the best first."""
    platforms = list(mac_platforms(OLDEST_MACOS, "arm64"))
    return [
        *cpython_tags(PYTHON, platforms=platforms),
        *compatible_tags(PYTHON, f"cp{PYTHON[0]}{PYTHON[1]}", platforms),
    ]
