"""An audit of the built wheel, and of what it needs (`make audit`): contents, and known vulnerabilities.

    python -m tests.audit

Exits with 1 for a fault of the wheel or a vulnerability. A service of vulnerabilities that cannot be reached is told.
"""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
UNWANTED: Final = ("tests", "page", "benchmarks", "docs", "node_modules", "__pycache__", ".git")
"""Folders of the checkout that belong in no wheel."""
SOURCES_OF_PAGES: Final = (".ts", ".tsx", ".jsx", ".vue", ".svelte", ".map")


def wheel_faults(wheel: Path, root: Path = ROOT) -> list[str]:
    """Return what is wrong with the contents of a wheel that was built from this checkout."""
    with zipfile.ZipFile(wheel) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    found = [f"{name}: does not belong here" for name in files if _is_unwanted(name)]
    found += [f"{name}: is missing" for name in sorted(_wanted(root) - set(files))]
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in files):
        found.append("the licence is missing")
    places = [str(place).encode() for place in {root.resolve(), Path.home(), Path(sys.prefix)} if len(str(place)) > 4]
    found += [f"{name}: names a path of the machine that built it" for name, data in files.items()
              if any(place in data for place in places)]  # fmt: skip
    points = next((data for name, data in files.items() if name.endswith("entry_points.txt")), b"")
    table = configparser.ConfigParser()
    table.read_string(points.decode())
    modules = [value.partition(":")[0].replace(".", "/") for section in table.values() for value in section.values()]
    found += [
        f"the entry point {module} has no module"
        for module in modules or ["(none)"]
        if not {f"{module}.py", f"{module}/__init__.py"} & set(files)
    ]
    return found


def _is_unwanted(name: str) -> bool:
    parts = name.split("/")
    outside = name.startswith("/") or ".." in parts
    return outside or name.endswith(SOURCES_OF_PAGES) or parts[0] in UNWANTED or bool(set(parts[:-1]) & {*UNWANTED[3:]})


def _wanted(root: Path) -> set[str]:
    """Return the names of all modules and data files of the packages."""
    packages = [(root / "src", root / "src" / "ollmlx"), *((root / "plugins", one) for one in root.glob("plugins/*/"))]
    return {
        path.relative_to(base).as_posix()
        for base, package in packages
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def vulnerabilities() -> tuple[list[str], list[str]]:
    """Return the known vulnerabilities of the pinned packages, and the packages of which nothing could be learnt."""
    argv = [sys.executable, "-P", "-m", "pip_audit", "-r", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip",
            "--progress-spinner", "off", "--format", "json"]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return [], [(done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]]
    known = [f"{each['name']} {each['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
             for each in packages for fault in each.get("vulns", ())]  # fmt: skip
    return known, [each["name"] for each in packages if "skip_reason" in each]


def main() -> int:
    from hatchling.builders.wheel import WheelBuilder

    with tempfile.TemporaryDirectory() as folder:
        (wheel,) = WheelBuilder(str(ROOT)).build(directory=folder, versions=["standard"])
        faults = wheel_faults(Path(wheel))
    known, unknown = vulnerabilities()
    sys.stdout.writelines(f"{line}\n" for line in (*faults, *known))
    sys.stdout.write(f"the wheel: {len(faults)} faults; vulnerabilities: {len(known)}\n")
    if unknown:
        shown = ", ".join(unknown[:5])
        sys.stdout.write(f"NOT AUDITED, the service knew nothing or did not answer: {len(unknown)} ({shown} ...)\n")
    return bool(faults or known)


if __name__ == "__main__":
    sys.exit(main())
