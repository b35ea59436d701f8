"""Tiny models with random weights, each as two GGUF files, model and projector, as llama.cpp's converter writes them:
LLaVA, and one that hears as Qwen2-Audio does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

CHAT: Final = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
WIDTH: Final = 64
LAYERS: Final = 2
HEADS: Final = 4
SIDE: Final = 28
PATCH: Final = 14


def write_llava(folder: Path) -> tuple[Path, Path]:
    """Write a model and its projector into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return _write_model(folder / "llava.gguf"), _write_projector(folder / "mmproj-llava.gguf")


def write_listener(folder: Path) -> tuple[Path, Path]:
    """Write a model that hears, and its projector, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return _write_model(folder / "listener.gguf"), _write_ears(folder / "mmproj-listener.gguf")


def _write_model(file: Path) -> Path:
    import gguf

    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    letters = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *letters]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(CHAT)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(tokens), WIDTH),
        "output.weight": (len(tokens), WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        shapes |= {f"{at}attn_{part}.weight": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        shapes |= {f"{at}attn_norm.weight": (WIDTH,), f"{at}ffn_norm.weight": (WIDTH,)}
        shapes |= {f"{at}ffn_{part}.weight": (96, WIDTH) for part in ("gate", "up")}
        shapes[f"{at}ffn_down.weight"] = (WIDTH, 96)
    return _finish(writer, file, shapes)


def _write_projector(file: Path) -> Path:
    import gguf

    writer = gguf.GGUFWriter(str(file), "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    numbers = {
        "image_size": SIDE, "patch_size": PATCH, "embedding_length": 32, "feed_forward_length": 48,
        "projection_dim": WIDTH, "block_count": 2, "attention.head_count": 2,
    }  # fmt: skip
    for name, number in numbers.items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5] * 3)
    writer.add_array("clip.vision.image_std", [0.5] * 3)
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (32, 3, PATCH, PATCH),
        "v.class_embd": (32,),
        "v.position_embd.weight": ((SIDE // PATCH) ** 2 + 1, 32),
        "v.pre_ln.weight": (32,),
        "v.pre_ln.bias": (32,),
        "mm.0.weight": (WIDTH, 32),
        "mm.0.bias": (WIDTH,),
        "mm.2.weight": (WIDTH, WIDTH),
        "mm.2.bias": (WIDTH,),
        **_layers("v"),
    }
    return _finish(writer, file, shapes)


def _write_ears(file: Path) -> Path:
    """Write Whisper's encoder, for half a minute of sound in 1,500 steps, of which a pool makes 750 tokens."""
    import gguf

    writer = gguf.GGUFWriter(str(file), "clip")
    writer.add_type("mmproj")
    writer.add_bool("clip.has_audio_encoder", True)
    writer.add_string("clip.projector_type", "qwen2a")
    writer.add_bool("clip.use_gelu", True)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    numbers = {
        "num_mel_bins": 80, "embedding_length": 32, "feed_forward_length": 48, "projection_dim": WIDTH,
        "block_count": 2, "attention.head_count": 2,
    }  # fmt: skip
    for name, number in numbers.items():
        writer.add_uint32(f"clip.audio.{name}", number)
    writer.add_float32("clip.audio.attention.layer_norm_epsilon", 1e-5)
    shapes: dict[str, tuple[int, ...]] = {
        "a.conv1d.1.weight": (32, 80, 3),
        "a.conv1d.1.bias": (32, 1),
        "a.conv1d.2.weight": (32, 32, 3),
        "a.conv1d.2.bias": (32, 1),
        "a.position_embd.weight": (1500, 32),
        "a.post_ln.weight": (32,),
        "a.post_ln.bias": (32,),
        "mm.a.fc.weight": (WIDTH, 32),
        "mm.a.fc.bias": (WIDTH,),
        **_layers("a"),
    }
    del shapes["a.blk.0.attn_k.bias"], shapes["a.blk.1.attn_k.bias"]
    return _finish(writer, file, shapes)


def _layers(kind: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(2):
        at = f"{kind}.blk.{layer}."
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            shapes |= {f"{at}{part}.weight": (32, 32), f"{at}{part}.bias": (32,)}
        for part in ("ln1", "ln2"):
            shapes |= {f"{at}{part}.weight": (32,), f"{at}{part}.bias": (32,)}
        shapes |= {f"{at}ffn_up.weight": (48, 32), f"{at}ffn_up.bias": (48,)}
        shapes |= {f"{at}ffn_down.weight": (32, 48), f"{at}ffn_down.bias": (32,)}
    return shapes


def _finish(writer: Any, file: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    import numpy as np

    drawn = np.random.default_rng(5)
    for name, shape in shapes.items():
        tensor = drawn.standard_normal(shape) * 0.3 + ("norm" in name or ".ln" in name or "pre_ln" in name)
        writer.add_tensor(name, tensor.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
