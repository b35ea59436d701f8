"""Make `llamacpp_ids.json`: what llama.cpp's tokenizer says, for small vocabularies of every kind and the real model.

    python -m tests.unit.plugins.mlx.data.regenerate PATH/TO/SmolLM2-135M-Instruct.Q4_1.gguf

Needs `pip install 'ollmlx[llamacpp]' sentencepiece`. The vocabularies are trained here, on this text; llama.cpp then
tokenizes through its own server. The result is committed, so that the tests need none of this.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import sentencepiece
import xllamacpp
from tests.unit.plugins.mlx.conftest import tiny_gguf
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from ollmlx_mlx.importer.gguf_tokenizer import _LLAMA3, _QWEN2, _TEKKEN

STRINGS = [
    "Hello world",
    " leading and trailing  ",
    "I'm, you're, HE'LL, they'd've; don't",
    "0 1 12 123 1234 12345 3.14159 1e-9 2026-11-23 ٣٤٥ ½ ²",
    "def f(x):\n    if x > 10:\n\t\treturn {'a': [1, 2], \"b\": None}\n\n\n# done\r\n",
    "a  b   c    d     e          f",
    "\n\n\n  \n \t \n",
    "日本語のテキスト、中文文本，한국어 텍스트",
    "emoji 😀👩‍👩‍👧‍👦🇩🇪 ✅ ¯\\_(ツ)_/¯",
    "naïve café Straße Ωmega Привет мир شكرا नमस्ते ไทย",
    "https://example.org/a?b=c&d=%20#frag user@host.tld",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case",
    "<|im_start|>user\nhi<|im_end|>\n",
    "x=1;y+=2;z!=3&&w||v",
    "",
]
SOURCES = sorted((Path(__file__).parents[5] / "src").glob("ollmlx/*.py"))
KINDS = {"gpt-2": None, "smollm": None, "llama-bpe": _LLAMA3, "qwen2": _QWEN2, "tekken": _TEKKEN}
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def main(real: Path) -> None:
    texts = [*STRINGS, *(source.read_text(encoding="utf-8") for source in SOURCES)]
    out: dict[str, Any] = {"strings": STRINGS, "kinds": {}}
    for kind, split in KINDS.items():
        out["kinds"][kind] = measured(byte_level(texts, kind, split))
    out["kinds"]["llama"] = measured(sentence_piece(texts))
    out["smollm2"] = ask(real)
    lines = json.dumps(out, ensure_ascii=False, indent=None, separators=(",", ":")).replace('"kinds":', '\n"kinds":')
    Path(__file__).with_name("llamacpp_ids.json").write_text(lines + "\n", encoding="utf-8")


def byte_level(texts: list[str], kind: str, split: str | None) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if kind == "smollm" else []
    if split:
        steps.append(pre_tokenizers.Split(Regex(split), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not split))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=CONTROL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    saved = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(saved["vocab"], key=saved["vocab"].__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": kind,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in CONTROL else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in saved["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def sentence_piece(texts: list[str]) -> dict[str, Any]:
    lines = [line for text in texts for line in text.split("\n")]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=1100, byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98,
        minloglevel=2,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kinds = {True: 6}
    types = [
        2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else kinds.get(pieces.is_byte(i), 1)
        for i in range(pieces.vocab_size())
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [pieces.id_to_piece(i) for i in range(pieces.vocab_size())],
        "tokenizer.ggml.scores": [pieces.get_score(i) for i in range(pieces.vocab_size())],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def measured(metadata: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tiny.gguf"
        tiny_gguf(file, "llama", "F32", {}, metadata, layers=1)  # llama.cpp wants weights before it tokenizes
        return {"metadata": metadata, **ask(file)}


def ask(file: Path) -> dict[str, Any]:
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx = 512
    params.warmup = False
    server = xllamacpp.Server(params)

    def post(path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode())
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def ids(text: str, special: bool) -> list[int]:
        found: list[int] = post("/tokenize", {"content": text, "add_special": special, "parse_special": True})["tokens"]
        return found

    return {"plain": [ids(text, False) for text in STRINGS], "with_bos": ids("Hello world", True)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
