"""GGUF files in Ollama's own dialect: refused before llama.cpp loads them, with the ways out."""

from __future__ import annotations

from ollmlx import DIALECT_KEY, Refusal, load_catalogue
from ollmlx.types import InstalledModel
from ollmlx_llamacpp.families import FAMILIES


def refuse_dialect(model: InstalledModel) -> Refusal | None:
    """Return why llama.cpp cannot run a file in Ollama's dialect, and the ways out in order; None for other files."""
    differs = model.info.get(DIALECT_KEY)
    if not differs:
        return None
    return Refusal(
        reason=f"the file is in Ollama's own dialect of GGUF, which llama.cpp does not read: {differs}",
        hint="; ".join(_ways_out(model)),
        code="MDL005",
    )


def _ways_out(model: InstalledModel) -> list[str]:
    short, tag = model.name.short, model.name.tag
    repository = load_catalogue().get(short) or load_catalogue().get(short.removesuffix(":latest"))
    for_mlx = f"ollmlx pull {repository}" if repository else f"ollmlx pull --dry-run {short} shows what the hub has"
    named = f", on a CPU ollmlx pull --dry-run {short} names one" if model.name.repo_id is None else ""
    stock = f"a stock GGUF file: ollmlx pull hf.co/ORG/NAME-GGUF (ggml-org, unsloth{named})"
    ways = [f"weights for MLX: {for_mlx}", stock]
    if converts(model):
        ways.append(f"a converted copy: ollmlx create {model.name.name}-converted:{tag} --from-ollama {short}")
    return ways


def converts(model: InstalledModel) -> bool:
    """Return whether the converter knows the family of a model's file, or only its projector is written anew."""
    return model.defaults.projector is not None or str(model.info.get("general.architecture")) in FAMILIES
