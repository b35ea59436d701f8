"""Bills of materials (CycloneDX): of the packages in the files of the web page, and of all that ollmlx installs."""

from __future__ import annotations

import base64
import json
import os
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release.lock import ROOT, LockedPackage, lock

LICENCES: Final = ROOT / "plugins/ollmlx_page/static/licences.txt"
EXTRAS: Final = ("cpu", "cuda", "cuda13", "llamacpp", "vision", "otel")
BUNDLED: Final = re.compile(r"^(\S+) ([\d.]+): (.+)$", re.MULTILINE)
"""The first line of a package in licences.txt, which the build of the page writes from what is in its files."""


def write_page_bom(file: Path, version: str) -> None:
    """Write the bill of materials that wheels carry (PEP 770). It needs no network."""
    root = Component(name="ollmlx-page", version=version, type=ComponentType.APPLICATION)
    components = bundled()
    _write(root, components, {root.name: {each.name for each in components}}, file)


def write_bom(file: Path, version: str) -> None:
    """Write the bill of materials of ollmlx with all of its extras, what the page bundles included."""
    root = Component(
        name="ollmlx", version=version, type=ComponentType.APPLICATION, purl=_purl("pypi", "ollmlx", version)
    )
    locked = lock(*EXTRAS, python="3.11")
    graph = needs(locked)
    graph[root.name] |= {each.name for each in bundled()}
    _write(root, [*bundled(), *(python_component(package) for package in locked)], graph, file)


def bundled() -> list[Component]:
    """Return the npm packages in the files of the page."""
    packages = json.loads((ROOT / "page/package-lock.json").read_text("utf-8"))["packages"]
    return [
        Component(
            name=name,
            version=version,
            purl=_purl("npm", name, version),
            licenses=[LicenseFactory().make_from_string(licence)],
            hashes=[_integrity(packages[f"node_modules/{name}"])],
        )
        for name, version, licence in BUNDLED.findall(LICENCES.read_text("utf-8"))
    ]


def python_component(package: LockedPackage) -> Component:
    installed = _installed(package)
    licence = (_field(installed, "License-Expression") or _field(installed, "License")) if installed else ""
    wheels = [
        ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(url),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)],
        )
        for url, sha256 in package.wheels.items()
    ]
    return Component(
        name=package.name,
        version=package.version,
        purl=_purl("pypi", package.name, package.version),
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
        external_references=wheels,
    )


def needs(locked: Iterable[LockedPackage]) -> dict[str, set[str]]:
    """Return the names that each installed package requires, extras apart; of ollmlx itself with its extras."""
    own = map(Requirement, distribution("ollmlx").requires or [])
    found: dict[str, set[str]] = {"ollmlx": {canonicalize_name(each.name) for each in own}}
    for package in locked:
        lines = installed.requires or [] if (installed := _installed(package)) else []
        required = [Requirement(line) for line in lines]
        found[package.name] = {canonicalize_name(each.name) for each in required if "extra" not in str(each.marker)}
    return found


def _write(root: Component, components: list[Component], graph: dict[str, set[str]], file: Path) -> None:
    """Write the same bytes for the same content: identifiers come from it, the time from SOURCE_DATE_EPOCH."""
    for component in (root, *components):
        component.bom_ref.value = str(component.purl or component.name)
    refs = {component.name: component.bom_ref for component in components}
    edges = [
        Dependency(
            component.bom_ref, [Dependency(refs[name]) for name in graph.get(component.name, ()) if name in refs]
        )
        for component in (root, *components)
    ]
    bom = Bom(components=components, dependencies=edges)
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    bom.serial_number = uuid.uuid5(
        uuid.NAMESPACE_URL, " ".join(sorted(str(one.bom_ref.value) for one in (root, *components)))
    )
    file.write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n", "utf-8")


def _purl(kind: str, name: str, version: str) -> PackageURL:
    return PackageURL(kind, None, name, version)


def _field(installed: Distribution, name: str) -> str:
    """Return a field of a package's metadata; nothing for a text of several lines, which is no name of a licence."""
    value = str(installed.metadata[name] or "") if name in installed.metadata else ""
    return "" if "\n" in value else value


def _integrity(package: dict[str, Any]) -> HashType:
    algorithm, _, content = package["integrity"].partition("-")
    return HashType(
        alg=HashAlgorithm[algorithm.upper().replace("SHA", "SHA_")], content=base64.b64decode(content).hex()
    )


def _installed(package: LockedPackage) -> Distribution | None:
    """Return the package as installed here, if it is the same version."""
    try:
        found = distribution(package.name)
    except PackageNotFoundError:
        return None
    return found if found.version == package.version else None
