"""The families of models that see: what each needs besides what mlx-vlm says, and why the others are not run.

Imports neither mlx nor mlx-vlm: the daemon and the child read the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class PictureFamily:
    """The facts of one family.

    `processor`: the module and class under `mlx_vlm.models` that prepares pictures; `marker`: what stands for a picture
    in a prompt, where the processor does not say it; `before`, `after`: the words around it in a plain template.
    """

    processor: str
    marker: str = ""
    before: str = ""
    after: str = ""


_VISION: Final = {"before": "<|vision_start|>", "after": "<|vision_end|>"}
_QWEN3: Final = PictureFamily("qwen3_vl.processing_qwen3_vl:Qwen3VLProcessor", **_VISION)
_LFM2: Final = PictureFamily("lfm2_vl.processing_lfm2_vl:Lfm2VlProcessor")
FAMILIES: Final[Mapping[str, PictureFamily]] = {
    "aya_vision": PictureFamily("aya_vision.processing_aya_vision:AyaVisionOutputProcessor"),
    "gemma3": PictureFamily("gemma3.processing_gemma3:Gemma3Processor", marker="<start_of_image>"),
    "gemma4": PictureFamily("gemma4.processing_gemma4:Gemma4Processor"),
    "glm4v": PictureFamily("glm4v.processing:Glm46VProcessor", before="<|begin_of_image|>", after="<|end_of_image|>"),
    "glm4v_moe": PictureFamily(
        "glm4v_moe.processing:Glm46VMoEProcessor", before="<|begin_of_image|>", after="<|end_of_image|>"
    ),
    "glm_ocr": PictureFamily(
        "glm_ocr.processing:GlmOcrProcessor", before="<|begin_of_image|>", after="<|end_of_image|>"
    ),
    "idefics3": PictureFamily("idefics3.processing_idefics3:Idefics3Processor"),
    "internvl": PictureFamily("internvl.processing_internvl:InternVLProcessor", marker="<IMG_CONTEXT>"),
    "internvl_chat": PictureFamily("internvl_chat.processor:InternVLChatProcessor", marker="<image>"),
    "kimi_vl": PictureFamily("kimi_vl.processing_kimi_vl:KimiVLProcessor"),
    "kimi_k25": PictureFamily("kimi_k25.processing_kimi_k25:KimiK25Processor"),
    "lfm2-vl": _LFM2,
    "lfm2_vl": _LFM2,
    "llama4": PictureFamily("llama4.processing_llama4:Llama4Processor"),
    "llava": PictureFamily("llava.processing_llava:LlavaProcessor"),
    "llava_onevision": PictureFamily("llava_onevision.processing_llava_onevision:LlavaOnevisionProcessor"),
    "mistral3": PictureFamily("mistral3.processing_mistral3:Mistral3Processor"),
    "paddleocr_vl": PictureFamily(
        "paddleocr_vl.processing_paddleocr_vl:PaddleOCRVLProcessor", before="<|IMAGE_START|>", after="<|IMAGE_END|>"
    ),
    "pixtral": PictureFamily("pixtral.processing_pixtral:PixtralProcessor"),
    "qwen2_5_vl": PictureFamily("qwen2_5_vl.processing_qwen2_5_vl:Qwen2_5_VLProcessor", **_VISION),
    "qwen2_vl": PictureFamily("qwen2_vl.processing_qwen2_vl:Qwen2VLProcessor", **_VISION),
    "qwen3_5": _QWEN3,
    "qwen3_5_moe": _QWEN3,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "smolvlm": PictureFamily("smolvlm.processing_smolvlm:SmolVLMProcessor"),
}
"""Model types whose answers to pictures are tested to be mlx-vlm's own."""

_CROSS: Final = "it reads pictures through layers of their own, which a batch does not carry"
_FORM: Final = "its prompts are no chat: their form depends on what stands around a picture"
_LAYOUT: Final = "mlx-vlm puts the parts of a picture into other places than its processor keeps for them"
_STATE: Final = "mlx-vlm keeps a picture's state in the model, where requests would mix"
REFUSED: Final[Mapping[str, str]] = {
    "diffusion_gemma": "it writes by diffusion, not token by token",
    "florence2": "it is an encoder with a decoder, not a chat model",
    "gemma3n": "mlx-vlm does not compute conversations of different lengths together",
    "granite4_vision": _STATE,
    "granite_vision": _LAYOUT,
    "hunyuan_vl": _STATE,
    "idefics2": _FORM,
    "llava_next": _LAYOUT,
    "minicpmo": "it numbers the pictures of a prompt",
    "minicpmv4_6": "it numbers the pictures of a prompt",
    "mllama": _CROSS,
    "moondream2": "its prompts see themselves in both directions",
    "moondream3": "its prompts see themselves in both directions",
    "nemotron_parse": "it is an encoder with a decoder, not a chat model",
    "paligemma": _FORM,
    "phi3_v": "it numbers the pictures of a prompt",
    "phi4mm": "it numbers the pictures of a prompt",
}
"""Model types that mlx-vlm has and the engine cannot carry, and why."""
