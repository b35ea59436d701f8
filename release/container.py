"""The container images: a Dockerfile each for CPUs and for NVIDIA GPUs, and the packages in it with their hashes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import Final

from release.lock import LockedPackage, lock

PYTHON: Final = "3.13"
IMAGES: Final = {"cpu": "GGUF and MLX models on CPUs", "cuda": "NVIDIA GPUs; run it with --gpus all"}
LIBGOMP: Final = """
# llama.cpp needs libgomp.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 \\
  && rm -rf /var/lib/apt/lists/*
"""
SYSTEM: Final = {"cpu": LIBGOMP, "cuda": ""}
VARIABLES: Final = {"cpu": "", "cuda": " \\\n  NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"}
DOCKERFILE: Final = Template("""\
# $purpose. Made by `make dist` from the tested versions; build it in the folder that has the wheel:
#
#   docker build -f Dockerfile.$image -t ollmlx:$image .
#   docker run -p 11434:11434 -v ollmlx:/data -e OLLMLX_SECURITY__API_KEYS='["a-key"]' ollmlx:$image
FROM python:$python-slim
$system
COPY requirements.$image.txt $wheel /tmp/ollmlx/
RUN pip install --no-cache-dir --require-hashes --only-binary :all: -r /tmp/ollmlx/requirements.$image.txt \\
  && pip install --no-cache-dir --no-deps /tmp/ollmlx/$wheel \\
  && rm -r /tmp/ollmlx \\
  && useradd --create-home --uid 1000 ollmlx && install -d -o ollmlx /data

USER 1000
ENV OLLMLX_STORAGE__STATE=/data/state OLLAMA_MODELS=/data/models OLLAMA_HOST=0.0.0.0:11434$variables
VOLUME /data
EXPOSE 11434
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \\
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:11434/livez', timeout=4)"]
ENTRYPOINT ["ollmlx"]
CMD ["serve"]
""")


def write_images(wheel: Path, folder: Path) -> None:
    """Write Dockerfile.IMAGE and requirements.IMAGE.txt for each image."""
    for image in IMAGES:
        (folder / f"Dockerfile.{image}").write_text(dockerfile(image, wheel.name), "utf-8")
        (folder / f"requirements.{image}.txt").write_text(requirements(lock(image, python=PYTHON)), "utf-8")


def dockerfile(image: str, wheel: str) -> str:
    return DOCKERFILE.substitute(
        purpose=IMAGES[image],
        image=image,
        python=PYTHON,
        wheel=wheel,
        system=SYSTEM[image],
        variables=VARIABLES[image],
    )


def requirements(locked: Iterable[LockedPackage]) -> str:
    """Return pip's lines for packages with the hashes of their wheels."""
    lines = []
    for package in locked:
        marker = f" ; {package.marker}" if package.marker else ""
        hashes = "".join(f" \\\n    --hash=sha256:{sha256}" for sha256 in sorted(set(package.wheels.values())))
        lines.append(f"{package.name}=={package.version}{marker}{hashes}\n")
    return "".join(lines)
