"""Recognises GGUF files in Ollama's own dialect, by their headers. Pure.

Ollama's engine reads files that llama.cpp refuses or misreads: with other names of architectures, metadata and tensors,
and with the projector of a model that sees inside the file.
"""

from __future__ import annotations

from typing import Final

from ollmlx.formats.gguf import GgufHeader

DIALECT_KEY: Final = "ollmlx.ollama_dialect"
"""The key in a model's `info` for how its file differs from llama.cpp's."""
_RENAMED: Final = (
    "deepseekocr", "glm4moelite", "glmocr", "gptoss", "mllama", "nemotron_h_omni", "olmo3", "qwen25vl",
)  # fmt: skip
"""Architectures that llama.cpp has under another name, or not at all."""
_INSIDE: Final = ("v.", "mm.", "a.", "s.", "model.vision_tower.")
"""The beginnings of the names of tensors that llama.cpp has in a second file."""
_TENSORS: Final = {
    "gemma3": ("dense.0.weight",),
    "laguna": ("attn_g.weight",),
    "nemotron_h_moe": ("ffn_latent_in.weight", "ffn_latent_out.weight"),
    "qwen35": ("ssm_dt",),
    "qwen35moe": ("ssm_dt",),
    "qwen3next": ("ssm_dt",),
}
"""Ends of tensor names that llama.cpp does not know, by architecture."""
_KEYS: Final = {
    "gemma3": ("attention.layer_norm_rms_epsilon",),
    "qwen3vl": ("rope.dimension_sections",),
    "qwen3vlmoe": ("rope.dimension_sections",),
}
"""Keys that llama.cpp needs and Ollama's files lack."""
_OTHER_KEYS: Final = {"mistral3": ("rope.scaling.beta_fast", "rope.scaling_beta"), "gemma3": ("rope.global.freq_base",)}
"""Keys that llama.cpp has under another name."""


def ollama_dialect(header: GgufHeader) -> str | None:
    """Return how a file in Ollama's dialect differs from llama.cpp's, as a sentence without its subject; else None."""
    kind = header.architecture
    if not kind or kind == "clip" or header.metadata.get("general.type") in ("mmproj", "adapter"):
        return None
    names = [tensor.name for tensor in header.tensors]
    differences = []
    if kind in _RENAMED:
        differences.append(f"its architecture is called {kind!r}")
    if any(name.startswith(_INSIDE) for name in names):
        differences.append("its projector is inside the file")
    if _has_other_tensors(kind, names):
        differences.append("its tensors have other names")
    if any(header.own(key) is None for key in _KEYS.get(kind, ())):
        differences.append("metadata that llama.cpp needs is missing")
    if any(header.own(key) is not None for key in _OTHER_KEYS.get(kind, ())):
        differences.append("its metadata has other names")
    return ", ".join(differences) or None


def ollama_projector(header: GgufHeader) -> str | None:
    """Return the same for a projector in a file of its own: those of the first LLaVA models do not say their type."""
    if header.architecture == "clip" and not any(key.endswith("projector_type") for key in header.metadata):
        return "its projector does not say of which type it is"
    return None


def _has_other_tensors(kind: str, names: list[str]) -> bool:
    if kind == "lfm2":
        return "output_norm.weight" in names and "token_embd_norm.weight" not in names
    if kind.startswith("qwen35") and any(name.startswith("mtp.") for name in names):
        return True
    ends = _TENSORS.get(kind, ())
    return bool(ends) and any(name.endswith(ends) for name in names)
