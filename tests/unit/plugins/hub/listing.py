"""Names of repositories in the shapes that mlx-community uses, the oldest first."""

from __future__ import annotations

LISTING = tuple(
    """
Qwen3.5-0.8B-4bit Qwen3.5-2B-4bit Qwen3.5-4B-4bit Qwen3.5-4B-8bit Qwen3.5-4B-bf16 Qwen3.5-9B-4bit
Qwen3.5-9B-8bit Qwen3.5-27B-4bit Qwen3.5-35B-A3B-4bit Qwen3.5-122B-A10B-4bit Qwen3.5-4B-Base-4bit
Qwen3-Next-80B-A3B-Instruct-4bit Qwen3-VL-4B-Instruct-4bit Qwen3-VL-8B-Instruct-4bit
Qwen3-4B-Thinking-2507-4bit Qwen3-4B-4bit Qwen3-8B-4bit Qwen2.5-VL-7B-Instruct-4bit
Qwen2.5-VL-3B-Instruct-4bit Qwen2.5-Coder-3B-Instruct-4bit Qwen2.5-Math-7B-Instruct-4bit gemma-4-e2b-it-4bit
gemma-4-e4b-it-4bit gemma-4-e4b-it-8bit gemma-4-e4b-it-nvfp4 gemma-4-31b-it-4bit gemma-4-26b-a4b-it-4bit
gemma-3-4b-it-4bit gemma-3-12b-it-4bit gemma-3-27b-it-4bit gemma-3-270m-it-4bit gemma-3n-E4B-it-4bit
embeddinggemma-300m-4bit embeddinggemma-300m-bf16 Meta-Llama-3.1-8B-Instruct-4bit
Meta-Llama-3.1-8B-Instruct-8bit Meta-Llama-3.1-8B-bf16 Phi-3-mini-4k-instruct-4bit
Phi-3-medium-4k-instruct-4bit Phi-3.5-mini-instruct-4bit phi-2-4bit Mixtral-8x7B-Instruct-v0.1-4bit
Mixtral-8x22B-Instruct-v0.1-4bit gpt-oss-20b-mxfp4 gpt-oss-120b-mxfp4 GLM-4.7-Flash-4bit GLM-4.6-4bit
granite-4.0-h-tiny-4bit granite-3.3-8b-instruct-4bit granite-3.3-2b-instruct-4bit Falcon3-7B-Instruct-4bit
Falcon3-10B-Instruct-4bit OLMo-2-7B-Instruct-4bit SmolLM2-360M-Instruct-4bit SmolLM2-1.7B-Instruct-4bit
SmolLM3-3B-4bit Devstral-Small-2507-4bit Magistral-Small-2507-4bit LFM2-1.2B-4bit LFM2-2.6B-4bit
nomic-embed-text-v1.5 bge-m3-4bit mxbai-embed-large-v1 all-MiniLM-L6-v2-4bit Yi-1.5-9B-Chat-4bit
whisper-large-v3-turbo whisper-tiny cogito-v1-preview-llama-8B-4bit DeepSeek-V3-4bit
DeepSeek-Coder-V2-Lite-Instruct-4bit deepseek-coder-6.7b-instruct-4bit codegemma-7b-it-4bit starcoder2-3b-4bit
starcoder2-7b-4bit stable-code-3b-4bit Qwen3.5-4B-abliterated-4bit
""".split()  # noqa: SIM905 - a table
)
