"""What a model's weights say of themselves: how many parameters, in which precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from ollmlx import SafetensorsTensor

DEFAULT_GROUP = 64
_QUANTIZED = (".scales", ".biases")


def parameter_count(tensors: Mapping[str, SafetensorsTensor], config: Mapping[str, Any]) -> int:
    """Logical parameters: packed weights count as what they unpack to, their scales and biases do not count."""
    return sum(_logical(name, tensor, tensors, config) for name, tensor in tensors.items())


def _logical(
    name: str, tensor: SafetensorsTensor, tensors: Mapping[str, SafetensorsTensor], config: Mapping[str, Any]
) -> int:
    layer, _, last = name.rpartition(".")
    scales = tensors.get(f"{layer}.scales")
    if scales is None or f"{layer}.weight" not in tensors:
        return tensor.elements
    if f".{last}" in _QUANTIZED:
        return 0
    if last != "weight" or not scales.shape:
        return tensor.elements
    rows = SafetensorsTensor("", tensor.shape[:-1], 0).elements
    return rows * scales.shape[-1] * _group_size(layer, config)


def _group_size(layer: str, config: Mapping[str, Any]) -> int:
    quantization = quantization_of(config)
    own = quantization.get(layer)
    if isinstance(own, dict):
        quantization = own
    size = quantization.get("group_size")
    return size if isinstance(size, int) and 0 < size <= 1024 else DEFAULT_GROUP


def quantization_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """MLX's `quantization` table; empty when the weights are not quantised."""
    for key in ("quantization", "quantization_config"):
        if isinstance(table := config.get(key), dict):
            return table
    return {}


def quantization_level(tensors: Mapping[str, SafetensorsTensor], config: Mapping[str, Any]) -> str:
    """`int4`, `mxfp4`, … for quantised weights, else the type most bytes have (`BF16`)."""
    table = quantization_of(config)
    bits, mode = table.get("bits"), table.get("mode", table.get("quant_method"))
    if isinstance(mode, str) and mode != "affine" and len(mode) <= 16:
        return mode
    if isinstance(bits, int):
        return f"int{bits}"
    counted: Counter[str] = Counter()
    for tensor in tensors.values():
        counted[tensor.dtype] += tensor.nbytes
    return counted.most_common(1)[0][0] if counted else ""
