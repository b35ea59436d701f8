"""Which files of a repository make an MLX model. Pure; never Python code, never a pickle."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ollmlx.errors import Unsupported, UpstreamError
from ollmlx_hub.client import Listing, RemoteFile

MAX_FILES = 1000
MAX_SMALL = 512 << 20  # bytes of everything that is not weights

_WEIGHTS = re.compile(r"model[A-Za-z0-9_.\-]*\.safetensors")
_SMALL = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\.(json|txt|jinja|model|tiktoken)|LICEN[CS]E(\.[A-Za-z]+)?|1_Pooling/config\.json"
)
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")
_TOKENIZERS = frozenset(
    {"tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json", "vocab.txt", "tokenizer_config.json"}
)
_NOT_OURS = ("training_args", "onnx", "openvino", "tf_model", "flax_model", "trainer_state", "optimizer")


def select(listing: Listing) -> list[RemoteFile]:
    """The files to fetch, small ones first. Raises Unsupported when MLX cannot use the repository, and says why."""
    chosen = [file for file in listing.files if _PATH.fullmatch(file.path) and ".." not in file.path]
    weights = [file for file in chosen if _WEIGHTS.fullmatch(file.path)]
    small = [file for file in chosen if _SMALL.fullmatch(file.path) and not file.path.startswith(_NOT_OURS)]
    names = {file.path for file in small}
    if not weights:
        raise _unusable(listing)
    if "config.json" not in names:
        raise Unsupported(f"{listing.repo} has no config.json: it is no model that MLX can load", code="MDL005")
    if not names & _TOKENIZERS:
        raise Unsupported(f"{listing.repo} has no tokenizer: MLX cannot use it", code="MDL005")
    if len(small) + len(weights) > MAX_FILES or sum(file.size for file in small) > MAX_SMALL:
        raise UpstreamError(f"{listing.repo} is implausible: it has too many or too large files beside its weights")
    return sorted(small, key=lambda file: file.path) + sorted(weights, key=lambda file: file.path)


def _unusable(listing: Listing) -> Unsupported:
    paths = [file.path for file in listing.files]
    if any(path.endswith(".gguf") for path in paths):
        why = "it holds GGUF files only"
        converted = f"mlx-community/{listing.repo.rpartition('/')[2].removesuffix('-GGUF')}-4bit"
        hint = f"look for a conversion: {converted}; hf.co/{listing.repo} pulls the GGUF file, for llama.cpp"
    elif _ends(paths, ".safetensors"):
        why = "its safetensors files are not those of a language model (model*.safetensors)"
        hint = "adapters are used with ADAPTER in a Modelfile"
    elif _ends(paths, ".bin", ".pt", ".pth", ".npz"):
        why = "its weights are pickles or arrays, which are never loaded"
        hint = "look for a repository with safetensors, for example at mlx-community"
    else:
        why, hint = "it holds no weights", "check the name"
    return Unsupported(f"{listing.repo} has no weights that MLX can use: {why}", code="MDL005", hint=hint)


def _ends(paths: Sequence[str], *suffixes: str) -> bool:
    return any(path.endswith(suffixes) for path in paths)
