"""Names of repositories in the shapes that organisations of the hub use, the oldest first."""

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

GGUF_LISTING = {
    "bartowski": tuple(
        """
Meta-Llama-3.1-8B-Instruct-GGUF Llama-3.2-1B-Instruct-GGUF Llama-3.2-3B-Instruct-GGUF Llama-3.3-70B-Instruct-GGUF
Mistral-7B-Instruct-v0.3-GGUF Mistral-Nemo-Instruct-2407-GGUF Mistral-Small-24B-Instruct-2501-GGUF
Codestral-22B-v0.1-GGUF Phi-3-mini-4k-instruct-GGUF Phi-3.5-mini-instruct-GGUF phi-4-GGUF gemma-2-9b-it-GGUF
codegemma-7b-it-GGUF Qwen2.5-7B-Instruct-GGUF
Qwen2.5-3B-Instruct-GGUF Qwen2.5-Coder-3B-Instruct-GGUF Qwen2.5-Coder-7B-Instruct-GGUF
DeepSeek-R1-Distill-Qwen-7B-GGUF DeepSeek-Coder-V2-Lite-Instruct-GGUF Falcon3-7B-Instruct-GGUF Falcon3-10B-Instruct-GGUF
SmolLM2-360M-Instruct-GGUF SmolLM2-1.7B-Instruct-GGUF HuggingFaceTB_SmolLM3-3B-GGUF
ibm-granite_granite-3.3-8b-instruct-GGUF ibm-granite_granite-3.3-2b-instruct-GGUF starcoder2-3b-GGUF starcoder2-7b-GGUF
Qwen_Qwen3-4B-GGUF Qwen_Qwen3-8B-GGUF Qwen_Qwen3-30B-A3B-GGUF Qwen_QwQ-32B-GGUF openai_gpt-oss-20b-GGUF
openai_gpt-oss-120b-GGUF google_gemma-3-4b-it-GGUF google_gemma-3-12b-it-GGUF google_gemma-3-270m-it-GGUF
zai-org_GLM-4.6-GGUF zai-org_GLM-4.7-Flash-GGUF OLMo-2-1124-7B-Instruct-GGUF
""".split()  # noqa: SIM905 - a table
    ),
    "unsloth": tuple(
        """
Qwen3.5-0.8B-GGUF Qwen3.5-2B-GGUF Qwen3.5-4B-GGUF Qwen3.5-9B-GGUF Qwen3.5-27B-GGUF Qwen3.5-35B-A3B-GGUF
Qwen3-4B-GGUF Qwen3-8B-GGUF Qwen3-VL-4B-Instruct-GGUF Qwen3-VL-8B-Instruct-GGUF Qwen3-Next-80B-A3B-Instruct-GGUF
Qwen3-Coder-30B-A3B-Instruct-GGUF Qwen2.5-VL-3B-Instruct-GGUF Qwen2.5-VL-7B-Instruct-GGUF gemma-4-E2B-it-GGUF
gemma-4-E4B-it-GGUF gemma-4-31B-it-GGUF gemma-4-26B-A4B-it-GGUF gemma-3n-E4B-it-GGUF DeepSeek-R1-0528-Qwen3-8B-GGUF
DeepSeek-V3-GGUF Llama-3.2-3B-Instruct-GGUF Mistral-Small-24B-Instruct-2501-GGUF LFM2-1.2B-GGUF LFM2-2.6B-GGUF
""".split()  # noqa: SIM905 - a table
    ),
    "ggml-org": ("bge-m3-Q8_0-GGUF", "gpt-oss-20b-GGUF", "Qwen3-Reranker-0.6B-Q8_0-GGUF", "SmolVLM-Instruct-GGUF"),
}
"""The repositories of the organisations that make GGUF files."""
