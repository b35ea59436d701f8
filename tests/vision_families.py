"""Tiny models that see, one of each family: its configuration, how it prepares pictures, and its template's marker.

In a configuration the text of a token stands for its id. With some: what its processor and its tokenizer need besides.
"""

# fmt: off
from __future__ import annotations

from typing import Any

Values = dict[str, Any]
TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<image>",
    "<fake_token_around_image>", "<global-img>", "<start_of_image>", "<end_of_image>", "<image_soft_token>", "<pad>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)),
    "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", "<|image|>",
    *(f"<|img_row_{row}_col_{column}|>" for row in (1, 2) for column in (1, 2)), "<|START_OF_IMG|>", "<|END_OF_IMG|>",
    "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL", "TILE_1", "TILE_2", "</s>", "<img>", "</img>",
    "<IMG_CONTEXT>", "<|begin_of_image|>", "<|end_of_image|>", "<|media_pad|>", "<|IMAGE_PLACEHOLDER|>",
    "<|IMAGE_START|>", "<|IMAGE_END|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>",
)
TEXT: Values = {
    "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4, "rope_theta": 1e4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096,
}
EYES: Values = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_heads": 2,
    "patch_size": 8, "image_size": 32, "depth": 2, "out_hidden_size": 64,
}
SIGLIP = {**EYES, "model_type": "siglip_vision_model"}
SQUARE = {"size": {"height": 32, "width": 32}}
PINPOINTS = {"image_grid_pinpoints": [[32, 64], [64, 32]]}
SPLIT = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}, "do_image_splitting": True}
PATCHES = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}}
OLD_PATCHES = {"patch_size": 14, "merge_size": 2, "min_pixels": 56 * 56, "max_pixels": 112 * 112}
AXES = {"type": "default", "mrope_section": [2, 3, 3]}
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "shared_expert_intermediate_size": 32,
}
QWEN_PLACES = {
    "image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>",
}
QWEN_MARKER = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_EYES = {
    **EYES, "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1], "embed_dim": 32, "mlp_ratio": 2,
}
QWEN = {**TEXT, **QWEN_PLACES, "rope_scaling": {**AXES, "type": "mrope"}, "tie_word_embeddings": True}
QWEN3_TEXT = {
    **TEXT, "model_type": "qwen3_vl_text", "head_dim": 16, "num_hidden_layers": 3, "rope_scaling": AXES,
    "tie_word_embeddings": True,
}
QWEN3_EYES = {**EYES, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
QWEN3_5_TEXT = {
    **TEXT, "model_type": "qwen3_5_text", "head_dim": 16, "num_hidden_layers": 4, "full_attention_interval": 2,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4, "tie_word_embeddings": True, "rope_parameters": {
        "type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4, "partial_rotary_factor": 0.5,
    },
}
QWEN3_5_EYES = {**QWEN3_EYES, "model_type": "qwen3_5", "deepstack_visual_indexes": []}
IDEFICS = {
    "text_config": {**TEXT, "model_type": "llama"}, "vision_config": SIGLIP, "scale_factor": 2,
    "image_token_id": "<image>",
}
GEMMA3 = {
    "text_config": {
        **TEXT, "model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32,
        "sliding_window_pattern": 2, "mm_tokens_per_image": 4,
    },
    "vision_config": SIGLIP, "image_token_index": "<image_soft_token>", "hidden_size": 64, "pad_token_id": "<pad>",
}
GEMMA3_TOKENS = {
    "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>",
}
GEMMA4_TEXT = {
    **TEXT, "head_dim": 16, "global_head_dim": 16, "num_hidden_layers": 4, "sliding_window": 32,
    "layer_types": ["sliding_attention", "full_attention"] * 2, "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 2, "vocab_size_per_layer_input": 512,
}
GEMMA4 = {
    "text_config": GEMMA4_TEXT,
    "vision_config": {
        **EYES, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 16, "pooling_kernel_size": 2,
        "default_output_length": 4, "position_embedding_size": 64,
    },
    "image_token_id": "<|image|>", "boi_token_id": "<|image_start|>", "eoi_token_id": "<|image_end|>",
    "audio_token_id": "<pad>", "pad_token_id": "<pad>",
}
GEMMA4_MORE: tuple[Any, ...] = (
    {}, "<|image|>", {"image_processor": {"patch_size": 8, "pooling_kernel_size": 2, "max_soft_tokens": 4}},
    {"image_token": "<|image|>", "boi_token": "<|image_start|>", "eoi_token": "<|image_end|>"},
)
MISTRAL = {
    "text_config": {**TEXT, "model_type": "mistral", "head_dim": 16},
    "vision_config": {**EYES, "model_type": "pixtral", "head_dim": 16, "image_size": 64},
    "image_token_index": "[IMG]",
}
GLM_MARKER = "<|begin_of_image|><|image|><|end_of_image|>"
GLM_EYES = {**EYES, "image_size": 64}
GLM_OCR_EYES = {
    name: value for name, value in GLM_EYES.items() if name not in ("num_hidden_layers", "num_attention_heads")
}
GLM: Values = {
    "image_token_id": "<|image|>", "image_token_index": "<|image|>", "video_token_id": "<|video_pad|>",
    "video_token_index": "<|video_pad|>", "vision_start_token_id": "<|begin_of_image|>",
    "vision_end_token_id": "<|end_of_image|>", "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
}
KIMI = {
    "text_config": {
        **TEXT, "model_type": "deepseek_v3", "kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8,
        "v_head_dim": 16, "qk_nope_head_dim": 16, "moe_intermediate_size": 32, "n_shared_experts": 1, "n_group": 1,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "topk_group": 1,
    },
    "vision_config": {
        **EYES, "model_type": "moonvit", "patch_size": 14, "embed_dim": 32, "init_pos_emb_height": 8,
        "init_pos_emb_width": 8,
    },
    "media_placeholder_token_id": "<|media_pad|>",
}
FAMILIES: dict[str, tuple[Any, ...]] = {
    "aya_vision": (
        {
            "text_config": {
                **TEXT, "model_type": "cohere2", "head_dim": 16, "sliding_window": 32, "sliding_window_pattern": 2,
            },
            "vision_config": SIGLIP, "image_token_index": "<|IMG_PATCH|>", "alignment_intermediate_size": 64,
        },
        {"image_processor_type": "GotOcr2ImageProcessor", **SQUARE, "crop_to_patches": True, "max_patches": 2},
        "<image>", {"patch_size": 8, "img_size": 32, "downsample_factor": 2},
    ),
    "gemma3": (
        GEMMA3, {"image_processor_type": "Gemma3ImageProcessor", **SQUARE}, "<start_of_image>",
        {"image_seq_length": 4}, GEMMA3_TOKENS,
    ),
    "gemma4": (GEMMA4, *GEMMA4_MORE),
    "gemma4-both-ways": (
        {**GEMMA4, "text_config": {**GEMMA4_TEXT, "use_bidirectional_attention": "vision"}}, *GEMMA4_MORE,
    ),
    "glm4v": (
        {
            **GLM, "vision_config": {**GLM_EYES, "model_type": "glm4v"}, "text_config": {
                **TEXT, "model_type": "glm4v_text", "rope_scaling": {"type": "default", "mrope_section": [2, 1, 1]},
            },
        },
        PATCHES, GLM_MARKER,
    ),
    "glm4v_moe": (
        {
            **GLM, "vision_config": {**GLM_EYES, "model_type": "glm4v_moe"}, "text_config": {
                **TEXT, "model_type": "glm4v_moe_text", "rope_scaling": {"type": "default", "mrope_section": [2, 1, 1]},
                "moe_intermediate_size": 32, "norm_topk_prob": True, "n_group": 1, "head_dim": 16, "topk_group": 1,
                "n_shared_experts": 1, "n_routed_experts": 4, "routed_scaling_factor": 1.0, "num_experts_per_tok": 2,
                "first_k_dense_replace": 1, "use_qk_norm": False, "attention_bias": True, "partial_rotary_factor": 0.5,
            },
        },
        PATCHES, GLM_MARKER,
    ),
    "glm_ocr": (
        {
            **GLM, "vision_config": GLM_OCR_EYES, "text_config": {
                **{name: value for name, value in TEXT.items() if name != "rope_theta"}, "model_type": "glm_ocr_text",
                "head_dim": 16, "rope_parameters": {
                    "rope_type": "default", "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0, "rope_theta": 1e4,
                },
            },
        },
        PATCHES, GLM_MARKER,
    ),
    "idefics3": (
        IDEFICS, {**SPLIT, "image_processor_type": "Idefics3ImageProcessor"}, "<image>", {"image_seq_len": 4},
    ),
    "internvl": (
        {
            "text_config": {**TEXT, "model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": False},
            "vision_config": {**EYES, "model_type": "internvl_vision"}, "image_token_id": "<IMG_CONTEXT>",
        },
        {}, "<IMG_CONTEXT>", {"image_seq_length": 4},
    ),
    "internvl_chat": (
        {
            "text_config": {**TEXT, "model_type": "qwen2"}, "image_token_index": "<IMG_CONTEXT>",
            "vision_config": {**EYES, "model_type": "intern_vit_6b"}, "downsample_ratio": 0.5, "force_image_size": 32,
        },
        {}, "<image>", {"num_image_token": 4},
    ),
    "kimi_k25": (
        KIMI, {"media_proc_cfg": {"patch_size": 14, "in_patch_limit": 64, "merge_kernel_size": 2}}, "<|media_pad|>",
    ),
    "kimi_vl": (KIMI, {"patch_size": 14, "in_token_limit": 64, "merge_kernel_size": [2, 2]}, "<|media_pad|>"),
    "lfm2_vl": (
        {
            "text_config": {
                **TEXT, "model_type": "lfm2", "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"],
                "block_dim": 64, "conv_dim": 64, "conv_dim_out": 64, "block_ff_dim": 96, "num_heads": 4,
                "block_auto_adjust_ff_dim": False,
            },
            "vision_config": {**SIGLIP, "model_type": "lfm2_vl", "num_patches": 64}, "image_token_id": "<image>",
            "downsample_factor": 2, "projector_hidden_size": 48,
        },
        {
            "tile_size": 32, "encoder_patch_size": 8, "downsample_factor": 2, "min_image_tokens": 2,
            "max_image_tokens": 4,
        },
        "<image>",
    ),
    "llama4": (
        {
            "text_config": {
                **TEXT, "model_type": "llama4_text", "num_hidden_layers": 4, "head_dim": 16, "num_local_experts": 2,
                "intermediate_size_mlp": 48, "attention_chunk_size": 64, "no_rope_layers": [1, 1, 1, 0],
                "interleave_moe_layer_step": 2,
            },
            "vision_config": {
                **EYES, "model_type": "llama4_vision_model", "image_size": 56, "initializer_range": 0.02,
                "intermediate_size": 128, "norm_eps": 1e-5, "num_channels": 3, "patch_size": 14, "rope_theta": 1e4,
                "pixel_shuffle_ratio": 0.5, "projector_dropout": 0.0, "projector_input_dim": 48,
                "projector_output_dim": 48, "vision_feature_layer": -1, "vision_output_dim": 48,
                "vision_feature_select_strategy": "default",
            },
            "image_token_index": "<|patch|>",
        },
        {"size": {"height": 56, "width": 56}, "max_patches": 2}, "<|image|>",
    ),
    "llava": (
        {
            "text_config": {**TEXT, "model_type": "llama"}, "image_token_index": "<image>",
            "vision_config": {**EYES, "model_type": "clip_vision_model"},
        },
        {
            "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32},
        },
        "<image>",
        {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llava_onevision": (
        {
            "text_config": {**TEXT, "model_type": "qwen2"}, "vision_config": SIGLIP, "image_token_index": "<image>",
            "video_token_index": "<|video_pad|>", **PINPOINTS,
        },
        {"image_processor_type": "LlavaOnevisionImageProcessor", **SQUARE, **PINPOINTS},
        "<image>", {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
    "mistral3": (
        {**MISTRAL, "spatial_merge_size": 2},
        {"image_processor_type": "PixtralImageProcessor", "size": {"longest_edge": 64}, "patch_size": 8},
        "[IMG]", {"patch_size": 8, "spatial_merge_size": 2},
    ),
    "paddleocr_vl": (
        {
            **TEXT, "hidden_size": 1024, "num_hidden_layers": 1, "head_dim": 16, "use_bias": False,
            "tie_word_embeddings": False, "rope_scaling": AXES, "vision_config": {**EYES, "model_type": "paddleocr_vl"},
            "image_token_id": "<|IMAGE_PLACEHOLDER|>", "video_token_id": "<|video_pad|>",
            "vision_start_token_id": "<|IMAGE_START|>",
        },
        {"patch_size": 8, "merge_size": 2, "min_pixels": 32 * 32, "max_pixels": 64 * 64},
        "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
    ),
    "pixtral": (
        MISTRAL, {"image_processor_type": "PixtralImageProcessor", "size": {"longest_edge": 32}, "patch_size": 8},
        "[IMG]", {"patch_size": 8, "spatial_merge_size": 1},
    ),
    "qwen2_5_vl": (
        {**QWEN, "vision_config": {**QWEN_EYES, "model_type": "qwen2_5_vl"}}, OLD_PATCHES, QWEN_MARKER,
    ),
    "qwen2_vl": (
        {**QWEN, "vision_config": {**QWEN_EYES, "model_type": "qwen2_vl", "hidden_size": 64}}, OLD_PATCHES, QWEN_MARKER,
    ),
    "qwen3_5": (
        {**QWEN_PLACES, "text_config": QWEN3_5_TEXT, "vision_config": QWEN3_5_EYES}, PATCHES, QWEN_MARKER,
    ),
    "qwen3_5_moe": (
        {**QWEN_PLACES, "text_config": {**QWEN3_5_TEXT, **EXPERTS}, "vision_config": QWEN3_5_EYES},
        PATCHES, QWEN_MARKER,
    ),
    "qwen3_vl": (
        {**QWEN_PLACES, "text_config": QWEN3_TEXT, "vision_config": {**QWEN3_EYES, "model_type": "qwen3_vl"}},
        PATCHES, QWEN_MARKER,
    ),
    "qwen3_vl_moe": (
        {
            **QWEN_PLACES, "text_config": {**QWEN3_TEXT, **EXPERTS},
            "vision_config": {**QWEN3_EYES, "model_type": "qwen3_vl_moe"},
        },
        PATCHES, QWEN_MARKER,
    ),
    "smolvlm": (
        IDEFICS, {**SPLIT, "image_processor_type": "SmolVLMImageProcessor"}, "<image>", {"image_seq_len": 4},
    ),
}
