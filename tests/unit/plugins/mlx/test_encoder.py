"""Encoders compute what transformers computes, and make vectors as the model's own files say."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine_requests import ask, collect, running
from tests.random_models import LENGTHS, RECORDED, tiny_encoder, token_ids, weight

from ollmlx.errors import ContextExceeded, InvalidRequest, StorageError, Unsupported
from ollmlx.protocol import TokenizeRequest
from ollmlx.storekit import describe_folder, list_files
from ollmlx.testing import eventually
from ollmlx.types import EmbedRequest, Options
from ollmlx_mlx.engine.encoder import batches
from ollmlx_mlx.engine.encoder.engine import EncoderEngine
from ollmlx_mlx.engine.engine import MlxEngine

pytestmark = pytest.mark.mlx
ENCODERS = sorted(set(RECORDED) - {"qwen3"})
TEXTS = ("w3 w4 w5", "w9", " ".join(f"w{number}" for number in range(3, 43)), "w60 w3")
CLOSE = 5e-5


def words(tokens: list[int]) -> str:
    return " ".join(f"w{token}" for token in tokens)


async def embed(engine: Any, *texts: str, **fields: Any) -> np.ndarray:
    return np.array((await engine.embed(EmbedRequest(inputs=texts, **fields))).embeddings)


def pooling(name: str) -> dict[str, Any]:
    return {"1_Pooling/config.json": {"pooling_mode": name}}


@pytest.mark.parametrize("family", ENCODERS)
def test_hidden_states_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    import mlx.core as mx

    from ollmlx_mlx.engine.encoder.load import load_encoder

    network = load_encoder(tiny_encoder(tmp_path / family, family), on_cpu=True).network
    texts = token_ids()
    padded = np.zeros((len(texts), max(LENGTHS)), dtype=np.int32)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = text
    together = np.array(network(mx.array(padded), mx.array(LENGTHS)))
    for index, text in enumerate(texts):
        alone = np.array(network(mx.array([text]), None))[0]
        for hidden in (alone, together[index, : len(text)]):
            np.testing.assert_allclose(hidden.mean(0), RECORDED[family]["mean"][index], atol=CLOSE)
            np.testing.assert_allclose(hidden[-1], RECORDED[family]["last"][index], atol=CLOSE)


PUBLISHED_NOMIC: dict[str, Any] = {
    "activation_function": "swiglu", "architectures": ["NomicBertModel"], "auto_map": {"AutoModel": "x.NomicBertModel"},
    "causal": False, "layer_norm_epsilon": 1e-12, "max_trained_positions": 2048, "mlp_fc1_bias": False,
    "mlp_fc2_bias": False, "model_type": "nomic_bert", "n_embd": 32, "n_head": 4, "n_inner": 48, "n_layer": 3,
    "n_positions": 8192, "pad_vocab_size_multiple": 64, "prenorm": False, "qkv_proj_bias": False,
    "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None, "rotary_scaling_factor": None, "type_vocab_size": 2, "use_rms_norm": False,
    "vocab_size": 61,
}  # fmt: skip
"""The fields of nomic-embed-text-v1.5 as its authors publish them, with small numbers."""


def test_nomics_own_configuration_is_read(tmp_path: Path) -> None:
    import mlx.core as mx

    from ollmlx_mlx.engine.encoder.load import load_encoder

    folder = tiny_encoder(tmp_path / "m", "nomic_bert")
    (folder / "config.json").write_text(json.dumps(PUBLISHED_NOMIC), encoding="utf-8")
    described = describe_folder(folder, list_files(folder, tmp_path), "local")
    assert (described.capabilities, described.details.context_length) == (("embedding",), 8192)
    network = load_encoder(folder, on_cpu=True).network
    for index, text in enumerate(token_ids()):
        hidden = np.array(network(mx.array([text]), None))[0]
        np.testing.assert_allclose(hidden.mean(0), RECORDED["nomic_bert"]["mean"][index], atol=CLOSE)


@pytest.mark.parametrize("name", ["gelu", "gelu_approx", "silu"])
def test_activations_on_a_cpu_are_those_of_mlx(name: str) -> None:
    import mlx.core as mx
    from mlx import nn

    from ollmlx_mlx.engine.encoder import cpu

    values = mx.concatenate([mx.linspace(-40, 40, 20001), mx.array([-1e30, -3e4, 0.0, 3e4, 1e30])])
    difference = mx.abs(getattr(cpu, name)(values) - getattr(nn, name)(values)) / mx.maximum(1.0, mx.abs(values))
    assert float(difference.max()) < 1e-6


def test_attention_on_a_cpu_is_that_of_mlx() -> None:
    import mlx.core as mx

    from ollmlx_mlx.engine.encoder import cpu

    q, k, v = (mx.random.normal((2, 3, 40, 8), key=mx.random.key(seed)) * 4 for seed in range(3))
    visible = mx.arange(40)[None, None, None] < mx.array([40, 7])[:, None, None, None]
    nothing = mx.broadcast_to(mx.arange(40)[:, None] < 0, (1, 1, 40, 40))
    for mask in (None, visible, mx.where(visible, 0.5, -mx.inf), nothing):
        wanted = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4, mask=mask)
        got = cpu.attention(q, k, v, scale=0.4, mask=mask)
        assert float(mx.abs(got - wanted).max()) < 2e-5 or mask is nothing
        assert bool(mx.isfinite(got).all())


async def test_a_decoder_pools_the_last_token_when_its_files_say_so(tmp_path: Path) -> None:
    async with running(MlxEngine(), tiny_encoder(tmp_path / "m", "qwen3", **pooling("lasttoken"))) as engine:
        plain = [words(text) for text in token_ids()]
        got = await embed(engine, *plain, normalize=False)
        assert not np.allclose(got[0], RECORDED["qwen3"]["last"][0], atol=0.01), "the model's tokenizer adds [SEP]"
    tokenizer_without_frame(tmp_path / "m")
    async with running(MlxEngine(), tmp_path / "m") as engine:
        got = await embed(engine, *plain, normalize=False)
        np.testing.assert_allclose(got, RECORDED["qwen3"]["last"], atol=CLOSE)


def tokenizer_without_frame(folder: Path) -> None:
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken", "max"])
async def test_vectors_are_pooled_as_the_folder_says(tmp_path: Path, mode: str) -> None:
    import mlx.core as mx

    from ollmlx_mlx.engine.encoder.load import load_encoder

    folder = tiny_encoder(tmp_path / "m", "bert", **pooling(mode))
    network = load_encoder(folder, on_cpu=True).network
    async with running(EncoderEngine(), folder) as engine:
        got = await embed(engine, *TEXTS, normalize=False)
        for text, vector in zip(TEXTS, got, strict=True):
            tokens = (await engine.tokenize(TokenizeRequest(text=text))).tokens
            hidden = np.array(network(mx.array([tokens]), None))[0]
            pools = {"mean": hidden.mean(0), "cls": hidden[0], "lasttoken": hidden[-1], "max": hidden.max(0)}
            np.testing.assert_allclose(vector, pools[mode], atol=CLOSE)


async def test_dense_layers_follow_the_pooling(tmp_path: Path) -> None:
    import mlx.core as mx

    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]
    modules += [{"type": "x.Dense", "path": "2_Dense"}, {"type": "x.Dense", "path": "3_Dense"}]
    dense = {"activation_function": "torch.nn.modules.linear.Identity"}
    files = {
        **pooling("mean"),
        "2_Dense/config.json": dense,
        "3_Dense/config.json": {"activation_function": "torch.nn.modules.activation.Tanh"},
    }
    plain = tiny_encoder(tmp_path / "plain", "bert", **pooling("mean"))
    folder = tiny_encoder(tmp_path / "m", "bert", **files, **{"modules.json": modules})
    first, second, bias = weight("a", [48, 32]), weight("b", [16, 48]), weight("c", [16])
    mx.save_safetensors(str(folder / "2_Dense/model.safetensors"), {"linear.weight": mx.array(first)})
    mx.save_safetensors(
        str(folder / "3_Dense/model.safetensors"), {"linear.weight": mx.array(second), "linear.bias": mx.array(bias)}
    )
    async with running(EncoderEngine(), plain) as engine:
        before = await embed(engine, *TEXTS, normalize=False)
    async with running(EncoderEngine(), folder) as engine:
        after = await embed(engine, *TEXTS, normalize=False)
        short = await embed(engine, *TEXTS, dimensions=4)
    np.testing.assert_allclose(after, np.tanh(before @ first.T @ second.T + bias), atol=CLOSE)
    cut = after[:, :4] / np.linalg.norm(after[:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose(short, cut, atol=CLOSE)


async def test_the_models_prompts_go_before_queries_and_documents(tmp_path: Path) -> None:
    about = {"prompts": {"query": "w7 w8 ", "document": "w9 "}}
    folder = tiny_encoder(tmp_path / "m", "bert", **pooling("mean"), **{"config_sentence_transformers.json": about})
    async with running(EncoderEngine(), folder) as engine:
        query = await embed(engine, "w3 w4", input_type="query")
        document = await embed(engine, "w3 w4", input_type="search_document")
        np.testing.assert_allclose(query, await embed(engine, "w7 w8 w3 w4"), atol=CLOSE)
        np.testing.assert_allclose(document, await embed(engine, "w9 w3 w4"), atol=CLOSE)


async def test_a_prompt_that_does_not_count_is_not_pooled(tmp_path: Path) -> None:
    import mlx.core as mx

    from ollmlx_mlx.engine.encoder.load import load_encoder

    files: dict[str, Any] = {"config_sentence_transformers.json": {"prompts": {"query": "w7 w8 "}}}
    files["1_Pooling/config.json"] = {"pooling_mode": "mean", "include_prompt": False}
    folder = tiny_encoder(tmp_path / "m", "bert", **files)
    hidden = np.array(load_encoder(folder, on_cpu=True).network(mx.array([[1, 7, 8, 3, 4, 2]]), None))[0]
    async with running(EncoderEngine(), folder) as engine:
        got = await embed(engine, "w3 w4", input_type="query", normalize=False)
    np.testing.assert_allclose(got[0], hidden[3:].mean(0), atol=CLOSE)


async def test_a_text_has_the_same_vector_alone_and_among_others(tmp_path: Path) -> None:
    async with running(EncoderEngine(), tiny_encoder(tmp_path / "m", "modernbert")) as engine:
        many = await embed(engine, *TEXTS * 40)
        for text, vector in zip(TEXTS, many, strict=False):
            np.testing.assert_allclose((await embed(engine, text))[0], vector, atol=CLOSE)
        np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, atol=1e-5)
        assert (await engine.embed(EmbedRequest(inputs=TEXTS))).prompt_tokens == 3 + 1 + 40 + 2 + 4 * 2


async def test_a_long_text_is_cut_between_its_special_tokens(tmp_path: Path) -> None:
    long = " ".join(["w5"] * 100)
    async with running(EncoderEngine(), tiny_encoder(tmp_path / "m", "bert"), context_length=64) as engine:
        cut = await engine.embed(EmbedRequest(inputs=(long, "w3")))
        assert cut.prompt_tokens == 64 + 3
        np.testing.assert_allclose(cut.embeddings[0], (await embed(engine, " ".join(["w5"] * 62)))[0], atol=CLOSE)
        with pytest.raises(ContextExceeded, match="the input length exceeds the context length"):
            await embed(engine, "w3", long, truncate=False)
        three = await engine.embed(EmbedRequest(inputs=("w3 w4 w5", "w6"), options=Options(num_ctx=3)))
        assert three.prompt_tokens == 6
        np.testing.assert_allclose(three.embeddings[0], (await embed(engine, "w3"))[0], atol=CLOSE)
        with pytest.raises(InvalidRequest, match="input after truncation exceeds maximum context length"):
            await embed(engine, "w3 w4", options=Options(num_ctx=1))
        with pytest.raises(InvalidRequest, match="dimensions must be at most 32"):
            await embed(engine, "w3", dimensions=33)


async def test_an_encoder_writes_no_text(tmp_path: Path) -> None:
    async with running(EncoderEngine(), tiny_encoder(tmp_path / "m", "bert")) as engine:
        with pytest.raises(Unsupported, match="does not generate text"):
            await collect(engine, ask("hello"))


async def test_a_cancelled_request_computes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(batches.TOKENS, "cpu", 64)
    async with running(EncoderEngine(), tiny_encoder(tmp_path / "m", "bert")) as engine:
        leaving = asyncio.create_task(engine.embed(EmbedRequest(inputs=TEXTS * 500)))
        await eventually(lambda: engine.status().progress > 2)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert engine.status().active == 0
        await embed(engine, "w3")
        assert engine.status().progress < 200


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
async def test_a_damaged_folder_is_named(tmp_path: Path, missing: str) -> None:
    folder = tiny_encoder(tmp_path / "m", "bert")
    (folder / missing).write_bytes(b"\x08")
    with pytest.raises(StorageError, match=r"cannot (load|read the tokenizer of) m"):
        async with running(EncoderEngine(), folder):
            pass


async def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    import mlx.core as mx

    folder = tiny_encoder(tmp_path / "m", "bert")
    weights: Any = mx.load(str(folder / "model.safetensors"))
    del weights["encoder.layer.1.output.dense.weight"]
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(StorageError, match=r"the weight layers\.1\.down\.weight is missing"):
        async with running(EncoderEngine(), folder):
            pass


async def test_quantised_weights_are_unpacked(tmp_path: Path) -> None:
    import json

    import mlx.core as mx

    folder = tiny_encoder(tmp_path / "m", "bert")
    async with running(EncoderEngine(), folder) as engine:
        before = await embed(engine, *TEXTS)
    weights: Any = mx.load(str(folder / "model.safetensors"))
    name = "encoder.layer.0.intermediate.dense"
    packed, scales, biases = mx.quantize(weights[f"{name}.weight"], group_size=32, bits=8)
    weights |= {f"{name}.weight": packed, f"{name}.scales": scales, f"{name}.biases": biases}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    config = RECORDED["bert"]["config"] | {"quantization": {"group_size": 32, "bits": 8}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    async with running(EncoderEngine(), folder) as engine:
        after = await embed(engine, *TEXTS)
    assert 0 < np.abs(after - before).max() < 0.01
