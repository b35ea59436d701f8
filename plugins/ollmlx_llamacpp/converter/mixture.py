"""The type of each tensor of a quantised model, as `llama-quantize` chooses it.

A name such as Q4_K_M stands for a mixture: tensors that lose more by quantisation get more bits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from ollmlx import GGUF_BLOCKS, GgufHeader, GgufTensor
from ollmlx.errors import InvalidRequest

FLOATS: Final = ("F32", "F16", "BF16")
MAIN: Final[Mapping[str, str]] = {
    "Q8_0": "Q8_0",
    "Q6_K": "Q6_K",
    "Q5_K_M": "Q5_K",
    "Q4_K_M": "Q4_K",
    "Q4_K_S": "Q4_K",
    "Q4_0": "Q4_0",
    "F16": "F16",
    "F32": "F32",
}
"""The type of most tensors of a mixture."""
_OTHER_SPELLINGS: Final = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_FALLBACK: Final = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""The type for rows that 256 does not divide."""
_KEPT: Final = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|altup|laurel|per_layer_model_proj|^position_embd\.weight|^token_types\.weight"
    r"|ssm_conv1d|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight|attn_rel_b\.weight|time_mix_(first|lerp_fused)"
    r"|time_mix_([wva][012]|g[12]|decay_w[12])\.weight"
)
"""Small tensors, or ones that suffer most."""
_VALUES: Final = re.compile(r"attn_(v|qkv|kv_b)\.weight")
_LAYER: Final = re.compile(r"blk\.(\d+)\.")


def mixture_of(name: str) -> str:
    """Return a mixture by the name that a person typed. Raises InvalidRequest with the names that there are."""
    found = name.upper()
    found = _OTHER_SPELLINGS.get(found, found)
    if found not in MAIN:
        raise InvalidRequest(f"unsupported quantization type {name[:40]} - supported types are {', '.join(MAIN)}")
    return found


class Mixture:
    """Chooses the types of one model's tensors."""

    def __init__(self, name: str, header: GgufHeader) -> None:
        self.name = name
        self._main = MAIN[name]
        self._layers = _number(header.own("block_count"))
        self._experts = _number(header.own("expert_count"))
        shares_values = header.own("attention.head_count_kv") not in (None, header.own("attention.head_count"))
        self._is_70b = header.architecture in ("llama", "qwen2") and self._layers == 80 and shares_values
        names = [tensor.name for tensor in header.tensors]
        self._values = sorted((_layer(each), each) for each in names if _VALUES.search(each))
        self._last = "output.weight" if "output.weight" in names else "token_embd.weight"

    def kind(self, tensor: GgufTensor) -> str:
        """Return the type of a tensor, a key of GGUF_BLOCKS."""
        if len(tensor.shape) < 2 or tensor.kind not in FLOATS or not tensor.name.endswith("weight"):
            return tensor.kind
        if _KEPT.search(tensor.name):
            return tensor.kind
        if self._main in FLOATS:
            return self._main
        return _fitting(self._chosen(tensor), tensor.shape)

    def _chosen(self, tensor: GgufTensor) -> str:
        name, layer = tensor.name, _layer(tensor.name)
        if name == self._last:
            fits = tensor.shape[-1] % GGUF_BLOCKS[self._main][1] == 0
            return "Q6_K" if fits and self._main != "Q8_0" else "Q8_0"
        if _VALUES.search(name):
            return self._of_values(self._values.index((layer, name)), len(self._values))
        if "attn_k.weight" in name and self._experts == 8:
            return "Q8_0"
        if "attn_output.weight" in name and self._experts == 8 and self.name.startswith("Q4_K"):
            return "Q5_K"
        if "ffn_down" in name:
            if self.name.endswith("_M") and _deserves_more(layer, self._layers):
                return "Q6_K"
            if self.name == "Q4_K_S" and layer < self._layers // 8:
                return "Q5_K"
        return self._main

    def _of_values(self, index: int, count: int) -> str:
        if self._experts == 8:
            return "Q8_0"
        if self.name.endswith("_M") and _deserves_more(index, count):
            return "Q6_K"
        if self.name == "Q4_K_S" and index < 4:
            return "Q5_K"
        return "Q5_K" if self._is_70b and self._main == "Q4_K" else self._main


def _deserves_more(index: int, count: int) -> bool:
    """Return whether a layer is among the first eighth, the last eighth, or every third of the others."""
    eighth = count // 8
    return index < eighth or index >= 7 * count // 8 or (index - eighth) % 3 == 2


def _fitting(kind: str, shape: Sequence[int]) -> str:
    """Return the type, or another one where its blocks do not divide the rows."""
    if shape[-1] % GGUF_BLOCKS[kind][1] == 0:
        return kind
    other = _FALLBACK.get(kind, kind)
    return other if shape[-1] % GGUF_BLOCKS[other][1] == 0 else "F16"


def _layer(name: str) -> int:
    found = _LAYER.match(name)
    return int(found[1]) if found else 0


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
