"""Selects the files of a repository that MLX needs. Python code and pickles are never selected. Nothing does I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ollmlx.errors import Unsupported, UpstreamError
from ollmlx_hub.layout import TOKENIZERS

MAX_FILES = 1000
MAX_SMALL = 512 << 20  # bytes of all files but the weights

_WEIGHTS = re.compile(r"model[A-Za-z0-9_.\-]*\.safetensors")
_SMALL = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\.(json|txt|jinja|model|tiktoken)|LICEN[CS]E(\.[A-Za-z]+)?|1_Pooling/config\.json"
)
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")
_UNUSED = ("training_args", "onnx", "openvino", "tf_model", "flax_model", "trainer_state", "optimizer")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: size in bytes, its sha256 if it is stored outside git, its git object id."""

    path: str
    size: int
    sha256: str | None
    oid: str

    @property
    def etag(self) -> str:
        """The identity of the content that the hub uses."""
        return self.sha256 or self.oid


@dataclass(frozen=True)
class RepositoryListing:
    """One revision of a repository."""

    repo: str
    commit: str
    license: str
    files: tuple[RemoteFile, ...]


def select_files(listing: RepositoryListing) -> list[RemoteFile]:
    """Return the files to fetch, small ones first. Raises Unsupported if MLX cannot use the repository."""
    chosen = [file for file in listing.files if _PATH.fullmatch(file.path) and ".." not in file.path]
    weights = [file for file in chosen if _WEIGHTS.fullmatch(file.path)]
    small = [file for file in chosen if _SMALL.fullmatch(file.path) and not file.path.startswith(_UNUSED)]
    names = {file.path for file in small}
    if not weights:
        raise _unusable(listing)
    if "config.json" not in names:
        raise Unsupported(f"{listing.repo} has no config.json: MLX cannot load it", code="MDL005")
    if not names & {*TOKENIZERS, "tokenizer_config.json"}:
        raise Unsupported(f"{listing.repo} has no tokenizer: MLX cannot use it", code="MDL005")
    if len(small) + len(weights) > MAX_FILES or sum(file.size for file in small) > MAX_SMALL:
        raise UpstreamError(f"{listing.repo} is implausible: it has too many or too large files beside its weights")
    return sorted(small, key=lambda file: file.path) + sorted(weights, key=lambda file: file.path)


def _unusable(listing: RepositoryListing) -> Unsupported:
    paths = [file.path for file in listing.files]
    if any(path.endswith(".gguf") for path in paths):
        reason = "it holds GGUF files only"
        converted = f"mlx-community/{listing.repo.rpartition('/')[2].removesuffix('-GGUF')}-4bit"
        hint = f"look for a conversion: {converted}; hf.co/{listing.repo} pulls the GGUF file, for llama.cpp"
    elif _ends(paths, ".safetensors"):
        reason = "its safetensors files are not those of a language model (model*.safetensors)"
        hint = "adapters are used with ADAPTER in a Modelfile"
    elif _ends(paths, ".bin", ".pt", ".pth", ".npz"):
        reason = "its weights are pickles or arrays, which are never loaded"
        hint = "look for a repository with safetensors, for example at mlx-community"
    else:
        reason, hint = "it holds no weights", "check the name"
    return Unsupported(f"{listing.repo} has no weights that MLX can use: {reason}", code="MDL005", hint=hint)


def _ends(paths: Sequence[str], *suffixes: str) -> bool:
    return any(path.endswith(suffixes) for path in paths)
